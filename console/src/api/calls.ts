/** Every call that the console makes. The paths are the API's own; their parameters and bodies are checked against its
 * OpenAPI document when this is compiled. */
import { events, request, respond } from "./client";
import type {
  AuditRow, BaseModel, Caller, Dataset, DatasetDetails, Day, Drift, Evaluation, Example, Feedback, Job, JobMetrics, JobStatus, Key, Lineage, Login, Model,
  ModelDetails, Pack, Page, Passage, Plan, Quota, Readiness, Role, Satisfaction, Slice, Traffic, Usage, UserInput,
} from "./shapes";
import type { components } from "./schema";

type Body<N extends keyof components["schemas"]> = components["schemas"][N];
type Signal = AbortSignal | undefined;

/** All items of a list, page after page: for what is chosen from, where nothing may be missing. */
export async function all<T>(load: (cursor: string | undefined, limit: number) => Promise<Page<T>>): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | undefined;
  do {
    const page = await load(cursor, 200);
    items.push(...page.items);
    cursor = page.next ?? undefined;
  } while (cursor);
  return items;
}

export const signInWays = () => request<{ login: Login | null }>()("get", "/api/sign-in", { key: "" });
export const whoAmI = (key: string) => request<Caller>()("get", "/api/keys/current", { key });
export const readiness = (signal?: Signal) => request<Readiness>()("get", "/readyz", { signal, accepts: 503 });

export const listJobs = (status?: JobStatus, cursor?: string, limit = 20, signal?: Signal) =>
  request<Page<Job>>()("get", "/api/training/jobs", { query: { status, cursor, limit }, signal });
export const showJob = (job_id: string, signal?: Signal) =>
  request<Job>()("get", "/api/training/jobs/{job_id}", { path: { job_id }, signal });
export const cancelJob = (job_id: string) => request<Job>()("delete", "/api/training/jobs/{job_id}", { path: { job_id } });
export const jobMetrics = (job_id: string, signal?: Signal) =>
  request<JobMetrics>()("get", "/api/training/jobs/{job_id}/metrics", { path: { job_id }, signal });
export async function* followLog(job_id: string, signal: AbortSignal): AsyncGenerator<string> {
  const response = await respond("get", "/api/training/jobs/{job_id}/logs", { path: { job_id }, query: { follow: true }, signal });
  for await (const event of events<{ text: string }>(response)) yield event.text;
}
export const planTraining = (body: Body<"TrainingBody">, signal?: Signal) =>
  request<Plan>()("post", "/api/training/plan", { body, signal });
export const startJob = (body: Body<"TrainingBody">, once: string) =>
  request<Job>()("post", "/api/training/jobs", { body, once });

export const listInputs = (cursor?: string, limit = 50, signal?: Signal) =>
  request<Page<UserInput>>()("get", "/api/training/collect/user-input", { query: { cursor, limit }, signal });
export const deleteInput = (input_id: string) =>
  request<null>()("delete", "/api/training/collect/user-input/{input_id}", { path: { input_id } });
export const collectFiles = (body: Body<"FilesSource">, once: string) =>
  request<Job>()("post", "/api/training/collect/files", { body, once });
export const collectGithub = (body: Body<"GithubSource">, once: string) =>
  request<Job>()("post", "/api/training/collect/github", { body, once });
export const collectHub = (body: Body<"HuggingfaceSource">, once: string) =>
  request<Job>()("post", "/api/training/collect/huggingface", { body, once });
export const collectDatabase = (body: Body<"DatabaseSource">, once: string) =>
  request<Job>()("post", "/api/training/collect/database", { body, once });
export const collectUrl = (body: Body<"UrlSource">, once: string) =>
  request<Job>()("post", "/api/training/collect/url", { body, once });
export const listDatasets = (stage?: Dataset["stage"], cursor?: string, limit = 50, signal?: Signal) =>
  request<Page<Dataset>>()("get", "/api/datasets", { query: { stage, cursor, limit }, signal });
export const shareDataset = (dataset_id: string, shared: boolean) =>
  request<Dataset>()("post", "/api/datasets/{dataset_id}/share", { path: { dataset_id }, body: { shared } as Body<"SharingBody"> });
export const showDataset = (dataset_id: string, signal?: Signal) =>
  request<DatasetDetails>()("get", "/api/datasets/{dataset_id}", { path: { dataset_id }, signal });
export const previewDataset = (dataset_id: string, split: "train" | "validation" | "test", limit: number, signal?: Signal) =>
  request<Page<Record<string, unknown>>>()("get", "/api/datasets/{dataset_id}/preview", {
    path: { dataset_id }, query: { split, limit }, signal,
  });
export const listDropped = (dataset_id: string, reason: string | undefined, limit: number, signal?: Signal) =>
  request<Page<Record<string, unknown>>>()("get", "/api/datasets/{dataset_id}/dropped", {
    path: { dataset_id }, query: { reason, limit }, signal,
  });

export const listModels = (cursor?: string, limit = 50, signal?: Signal) =>
  request<Page<Model>>()("get", "/api/models", { query: { cursor, limit }, signal });
export const listBases = (signal?: Signal) => request<{ items: BaseModel[] }>()("get", "/api/models/catalog", { signal });
export const showModel = (model_id: string, signal?: Signal) =>
  request<ModelDetails>()("get", "/api/models/{model_id}", { path: { model_id }, signal });
interface ServedMetrics {
  examples: Example[];
  evaluations: Evaluation[];
  traffic: Traffic;
  satisfaction: Satisfaction[];
  by_day?: Day[];
  drift: Drift | null;
}

export const modelMetrics = (model_id: string, signal?: Signal) =>
  request<ServedMetrics>()("get", "/api/models/{model_id}/metrics", {
    path: { model_id }, signal,
  });
export const deployModel = (model_id: string, replicas: number, once: string) =>
  request<Job>()("post", "/api/models/{model_id}/deploy", { path: { model_id }, body: { replicas } as Body<"Deploy">, once });
export const rollBack = (model_id: string) =>
  request<Model>()("post", "/api/models/{model_id}/rollback", { path: { model_id } });
export const showLineage = (model_id: string, signal?: Signal) =>
  request<Lineage>()("get", "/api/models/{model_id}/lineage", { path: { model_id }, signal });
export const showEvaluation = (evaluation_id: string, signal?: Signal) =>
  request<Evaluation & { slices: Slice[] }>()("get", "/api/evaluations/{evaluation_id}", { path: { evaluation_id }, signal });
export const undeployModel = (model_id: string) =>
  request<{ deployed: boolean }>()("delete", "/api/models/{model_id}/deploy", { path: { model_id } });
export const shareModel = (model_id: string, shared: boolean) =>
  request<Model>()("post", "/api/models/{model_id}/share", { path: { model_id }, body: { shared } as Body<"SharingBody"> });
export const promoteModel = (model_id: string) =>
  request<Model>()("post", "/api/models/{model_id}/promote", { path: { model_id } });

export async function* chat(
  model_id: string, messages: { role: "user" | "assistant"; content: string }[], max_tokens: number, temperature: number,
  signal: AbortSignal,
): AsyncGenerator<{ text?: string; finish_reason?: string; usage?: { completion_tokens: number }; id?: string | null }> {
  const body: Body<"InferenceBody"> = { messages, stream: true, parameters: { max_tokens, temperature } };
  yield* events(await respond("post", "/api/inference/{model_id}", { path: { model_id }, body, signal }));
}
export const rateAnswer = (answer_id: string, rating: "up" | "down", correction: string) =>
  request<{ id: string; status: string }>()("post", "/api/feedback", { body: { answer_id, rating, correction, reason: "" } });
export const listFeedback = (model?: string, cursor?: string, signal?: Signal, status?: Feedback["status"]) =>
  request<Page<Feedback>>()("get", "/api/feedback", { query: { model, status, cursor, limit: 20 }, signal });
export const acceptFeedback = (feedback_id: string, correction: string) =>
  request<Feedback>()("post", "/api/feedback/{feedback_id}/accept", { path: { feedback_id }, body: { correction } as Body<"AcceptanceBody"> });
export const rejectFeedback = (feedback_id: string) =>
  request<Feedback>()("post", "/api/feedback/{feedback_id}/reject", { path: { feedback_id } });
export const retrainModel = (model_id: string, once: string) =>
  request<Job>()("post", "/api/models/{model_id}/retrain", { path: { model_id }, once });
export const classify = (model_id: string, body: { input: string } | { image: string }) =>
  request<{ output: unknown }>()("post", "/api/inference/{model_id}", { path: { model_id }, body });
export const searchPassages = (body: Body<"SearchBody">, signal?: Signal) =>
  request<{ items: Passage[]; index: string }>()("post", "/api/search", { body, signal });

export const listSpecialists = (signal?: Signal) => request<Page<Pack>>()("get", "/api/specialists", { signal });
export const askSpecialist = (domain: string, capability: string, body: Record<string, unknown>, signal?: Signal) =>
  request<{ output: Record<string, unknown>; notice: string; model?: string }>()(
    "post", "/api/specialists/{domain}/{capability}", { path: { domain, capability }, body, signal },
  );

export const listKeys = (cursor?: string, signal?: Signal) =>
  request<Page<Key>>()("get", "/api/keys", { query: { cursor, limit: 50 }, signal });
export const createKey = (name: string, role: Role) =>
  request<Key & { key: string }>()("post", "/api/keys", { body: { name, role } });
export const revokeKey = (key_id: string) => request<null>()("delete", "/api/keys/{key_id}", { path: { key_id } });
export const showUsage = (by: "model" | "key" | "job", signal?: Signal) =>
  request<Page<Usage> & { since: string }>()("get", "/api/usage", { query: { by: [by], limit: 50 }, signal });
export const listQuotas = (signal?: Signal) => request<Page<Quota>>()("get", "/api/quotas", { signal });
export const setQuota = (body: Body<"QuotaBody">) => request<Partial<Quota>>()("put", "/api/quotas", { body });
export const listAudit = (cursor?: string, signal?: Signal) =>
  request<Page<AuditRow>>()("get", "/api/audit", { query: { cursor, limit: 50 }, signal });
export const verifyAudit = () => request<{ holds: boolean; first_bad: number | null }>()("get", "/api/audit/verify");
export const metricsText = async (signal?: Signal): Promise<string> =>
  (await respond("get", "/metrics", { signal })).text();
