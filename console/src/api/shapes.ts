/** What the API answers, as far as the console shows it. Its OpenAPI document types requests; answers are open objects. */

export interface Page<T> {
  items: T[];
  next: string | null;
}

export type Role = "viewer" | "user" | "trainer" | "admin";

export interface Caller {
  id: string;
  user: string;
  name: string;
  role: Role;
  tenant: string;
}

/** Where a person logs in at an OpenID Connect provider. */
export interface Login {
  client: string;
  authorization_endpoint: string;
  token_endpoint: string;
  scope: string;
}

export type JobStatus = "pending" | "running" | "completed" | "failed" | "cancelled";

export interface Stage {
  stage: string;
  status: string;
  artifact_id: string | null;
  reused: boolean;
  seconds: number | null;
  progress: number;
  message: string;
  details: Record<string, unknown>;
}

export interface Job {
  id: string;
  name: string;
  kind: string;
  base_model: string | null;
  training_method: string | null;
  status: JobStatus;
  progress: number;
  stage: string | null;
  message: string;
  dataset_id: string | null;
  metrics: Partial<Scores>;
  config: Record<string, unknown>;
  result: Partial<JobResult>;
  cancel_requested: boolean;
  created_at: string;
  started_at: string | null;
  completed_at: string | null;
  error?: string;
  problem?: { detail: string; remedy?: string; errors?: { loc: string; msg: string }[] };
  stages?: Stage[];
}

export interface JobResult {
  documents: string[];
  dataset: string | null;
  index: string | null;
  run: string | null;
  scores: string | null;
  version: string | null;
  model_id: string | null;
}

export interface Plan {
  fits: boolean;
  bytes: Partial<Record<string, number>>;
  seconds: number | null;
  parameters: number;
  trainable_parameters: number;
  tokens: number | null;
  steps: number | null;
  device: string;
  precision: string;
  samples: { samples?: number; cut_samples?: number };
  refusal: string | null;
  advice: string | null;
  notes?: string[];
}

export interface Interval {
  mean: number;
  low: number;
  high: number;
  corrected_p?: number | null;
}

export interface Gate {
  passed?: boolean;
  reason?: string;
  [name: string]: unknown;
}

export interface Scores {
  base_model: string;
  base: Record<string, number | null>;
  tuned: Record<string, number | null>;
  difference: Record<string, Interval>;
  intervals: Record<string, Interval>;
  comparisons: Record<string, Record<string, Interval>>;
  missing: Record<string, string>;
  answers: { metric: string; count: number; better: number; worse: number; same: number } | null;
  tokens: number;
  documents: number;
  groups: number;
  gate: Gate | null;
}

export interface Example {
  group: string;
  prompt: string;
  reference: string | null;
  base: string | null;
  tuned: string;
}

export type CurvePoint = Record<string, number | null>;

export interface JobMetrics {
  metrics: Partial<Scores>;
  examples: Example[];
  curves: CurvePoint[];
}

export interface Dataset {
  id: string;
  name: string;
  source: string;
  data_type: string;
  stage: "documents" | "dataset" | "index";
  artifact_id: string;
  size_bytes: number;
  num_samples: number;
  counts: Record<string, number>;
  parents: string[];
  owner: string;
  shared: boolean;
  created_at: string;
}

export interface DatasetDetails extends Dataset {
  details: Record<string, unknown>;
  card: string | null;
}

export interface UserInput {
  id: string;
  user_id: string;
  input_type: string;
  metadata: { filename?: string };
  size_bytes: number;
  created_at: string;
}

export interface Model {
  id: string;
  family: string;
  name: string;
  version: number | string;
  base_model: string;
  training_job_id: string | null;
  dataset_id: string | null;
  scores_artifact: string | null;
  specialization: string | null;
  performance_metrics: Partial<Scores>;
  gate: Gate | null;
  license: string | null;
  deployed: boolean;
  /** The model whose endpoint answers: itself, of an adapter perhaps its base; absent in answers that change a model. */
  served_by?: string | null;
  owner: string;
  shared: boolean;
  task: string | null;
  created_at: string;
}

export interface ModelDetails extends Model {
  card: string | null;
  notices: string[];
  versions: { id: string; version: number | string; deployed: boolean }[];
  deployment: { status: string; replicas: number; error?: string } | null;
}

interface NamedVersion {
  id: string;
  name: string;
  version: number | string;
  license: string | null;
}

export interface Lineage {
  model: NamedVersion;
  made_from: {
    run: string | null; scores: string | null; dataset: string | null;
    documents: { id: string; counts?: Record<string, number> }[] | null;
  };
  ingredients: { part: string; license: string; subject: string; documents: number }[];
  built_on: NamedVersion[];
  bases_of: NamedVersion[];
}

export interface Satisfaction {
  id: string;
  version: number | string;
  ratings: number;
  up: number;
  share?: number | null;
  low?: number | null;
  high?: number | null;
}

export interface Traffic {
  answers: number;
  prompt_tokens: number;
  completion_tokens: number;
  mean_seconds: number | null;
  days: (Omit<Traffic, "days"> & { day: string })[];
}

/** What a user said of an answer. */
export interface Feedback {
  id: string;
  model_id: string;
  rating: "up" | "down";
  status: "new" | "accepted" | "rejected";
  correction: string;
  question: Record<string, unknown>;
  answer: string;
  created_at: string;
}

/** What a model did on one day. */
export interface Day {
  day: string;
  answers: number;
  errors: number;
  ratings: number;
  up: number;
  seconds: number;
  p50_seconds: number | null;
  p95_seconds: number | null;
}

/** What was used: by model, by key, or (device seconds alone) by job. */
export interface Usage {
  model?: string;
  key?: string;
  job?: string;
  name?: string;
  requests?: number;
  errors?: number;
  prompt_tokens?: number;
  completion_tokens?: number;
  device_seconds: number;
}

export interface Quota {
  subject: string;
  resource: "tokens" | "bytes" | "device_minutes";
  period: "day" | "month";
  amount: number;
  used: number;
  renewed_in_seconds: number;
}

/** Whether the questions that a model gets differ from those that it learnt from. */
export interface Drift {
  questions: number;
  noticed_at: string | null;
  looked_at: string | null;
}

/** A part of the held-out samples that share a property, before and after. */
export interface Slice {
  fact: string;
  value: string;
  metric: string;
  samples: number;
  base: number;
  tuned: number;
  difference: Interval;
}

export interface BaseModel {
  name: string;
  model: string;
  license: string;
  parameters: string;
  tasks: string[];
  gated: boolean;
}

export interface Evaluation {
  id: string;
  model_id: string | null;
  run_artifact: string | null;
  scores: Partial<Scores>;
  created_at: string;
}

/** A place of an indexed document that a search found. */
export interface Passage {
  id: string;
  text: string;
  score: number;
  metadata: Record<string, unknown>;
}

export interface Schema {
  type?: string | string[];
  title?: string;
  description?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  enum?: unknown[];
  minLength?: number;
  maxLength?: number;
  minimum?: number;
  maximum?: number;
  default?: unknown;
}

export interface Capability {
  description: string;
  input: Schema;
  output: Schema;
  by: { rule?: string; classify?: string; generate?: string; retrieve?: boolean; picture?: string };
  example?: Record<string, unknown>;
}

export interface PackModel {
  description: string;
  family: string;
  name: string;
  data: { paths?: string[]; columns?: Record<string, string>; pictures?: boolean };
  collect?: unknown[];
  bases?: string[];
  train?: Record<string, unknown>;
  versions: number;
  deployed: string | null;
}

export interface Pack {
  id: string;
  title: string;
  description: string;
  notice: string;
  not_for: string[];
  models: Record<string, PackModel>;
  capabilities: Record<string, Capability>;
}

export interface Key {
  id: string;
  name: string;
  role: Role;
  prefix: string;
  tenant: string;
  created_at: string;
  revoked_at: string | null;
  last_used_at: string | null;
}

export interface AuditRow {
  seq: number;
  at: string;
  actor: string;
  action: string;
  object: string;
  decision: string;
  details: Record<string, unknown>;
}

export interface Readiness {
  status: string;
  services: Record<string, { state: string }>;
}
