import { useState } from "preact/hooks";
import { all, listJobs, listModels, metricsText, modelMetrics, readiness, showUsage } from "../api/calls";
import type { Day, Drift, Model, Satisfaction, Usage } from "../api/shapes";
import { ago, duration, metric, number, percent } from "../format";
import { useLoad } from "../load";
import { link, may, words } from "../state";
import { Badge, Card, Empty, Field, Head, More, Show, StatusBadge, Table } from "../ui/parts";

interface Traffic {
  route: string;
  requests: number;
  refused: number;
  failed: number;
  mean: number;
  most: number | null;
}

/** The API's own counts (text for Prometheus): by route requests, refusals, faults, mean time, and the bound below which
 * 95 % of them stayed. */
export function traffic(text: string): Traffic[] {
  const routes = new Map<string, { statuses: Map<number, number>; sum: number; count: number; buckets: [number, number][] }>();
  for (const line of text.split("\n")) {
    const parts = /^(soldiom_request\w+)\{(.*)\} (\S+)$/.exec(line);
    if (!parts) continue;
    const labels = Object.fromEntries([...(parts[2] ?? "").matchAll(/(\w+)="([^"]*)"/g)].map((each) => [each[1], each[2]]));
    const route = labels.route ?? "", value = Number(parts[3]);
    const entry = routes.get(route) ?? { statuses: new Map<number, number>(), sum: 0, count: 0, buckets: [] };
    routes.set(route, entry);
    if (parts[1] === "soldiom_requests_total") entry.statuses.set(Number(labels.status), (entry.statuses.get(Number(labels.status)) ?? 0) + value);
    else if (parts[1] === "soldiom_request_seconds_bucket") entry.buckets.push([labels.le === "+Inf" ? Infinity : Number(labels.le), value]);
    else if (parts[1] === "soldiom_request_seconds_sum") entry.sum = value;
    else if (parts[1] === "soldiom_request_seconds_count") entry.count = value;
  }
  return [...routes].map(([route, entry]) => {
    const statuses = [...entry.statuses];
    const total = (from: number, to: number) => statuses.filter(([status]) => status >= from && status < to).reduce((sum, [, count]) => sum + count, 0);
    const bound = entry.buckets.sort((one, other) => one[0] - other[0]).find(([, count]) => count >= entry.count * 0.95)?.[0];
    return {
      route, requests: statuses.reduce((sum, [, count]) => sum + count, 0), refused: total(400, 500), failed: total(500, 600),
      mean: entry.count ? entry.sum / entry.count : 0, most: bound !== undefined && Number.isFinite(bound) ? bound : null,
    };
  }).sort((one, other) => other.requests - one.requests);
}

/** What runs, how the API answers, how the jobs went. */
export function Monitor() {
  const w = words();
  const services = useLoad(readiness, [], () => 10);
  const jobs = useLoad((signal) => listJobs(undefined, undefined, 200, signal), [], () => 15);
  return (
    <>
      <Head title={w.monitor.title} intro={w.monitor.intro} />
      <div class="stack">
        <Card title={w.monitor.services}>
          <Show of={services}>
            {(ready) => (
              <ul class="list">
                {Object.entries(ready.services).map(([name, service]) => (
                  <li key={name}><bdi>{w.serviceNames[name] ?? name}</bdi><Badge tone={service.state === "running" ? "good" : "bad"}>{service.state === "running" ? w.monitor.runs : service.state}</Badge></li>
                ))}
              </ul>
            )}
          </Show>
        </Card>
        {may("admin") && <TrafficCard />}
        <Answers />
        <Costs />
        <Card title={w.monitor.jobs}>
          <Show of={jobs}>
            {(page) => page.items.length === 0 ? <Empty title={w.home.noJobs} /> : (
              <Table label={w.monitor.jobs} rows={page.items.filter((job) => job.started_at).slice(0, 20)} id={(job) => job.id} columns={[
                { title: w.data.name, cell: (job) => <a href={link("train", job.id)}><bdi>{job.name}</bdi></a> },
                { title: w.train.state, cell: (job) => <StatusBadge status={job.status} /> },
                { title: w.monitor.took, cell: (job) => duration((Date.parse(job.completed_at ?? new Date().toISOString()) - Date.parse(job.started_at ?? "")) / 1000), numeric: true },
              ]} />
            )}
          </Show>
        </Card>
      </div>
    </>
  );
}

function TrafficCard() {
  const w = words();
  const loaded = useLoad(async (signal) => traffic(await metricsText(signal)), [], () => 10);
  return (
    <Card title={w.monitor.traffic} note={w.monitor.trafficNote}>
      <Show of={loaded}>
        {(rows) => (
          <Table label={w.monitor.traffic} rows={rows.slice(0, 25)} id={(row) => row.route} columns={[
            { title: w.monitor.route, cell: (row) => <code dir="ltr">{row.route}</code> },
            { title: w.monitor.requests, cell: (row) => number(row.requests), numeric: true },
            { title: w.monitor.refused, cell: (row) => percent(row.requests ? row.refused / row.requests : 0), numeric: true },
            { title: w.monitor.failed, cell: (row) => <span>{number(row.failed)}</span>, numeric: true },
            { title: w.monitor.mean, cell: (row) => `${metric(row.mean * 1000)} ms`, numeric: true },
            { title: w.monitor.most, cell: (row) => (row.most === null ? "> 60 s" : `${metric(row.most * 1000)} ms`), numeric: true },
          ]} />
        )}
      </Show>
    </Card>
  );
}

interface Served {
  model: Model;
  days: readonly Day[];
  drift: Drift | null;
  satisfaction: Satisfaction | undefined;
}

/** Models whose readings are asked for at a time: each takes a call of its own. */
const SERVED_AT_ONCE = 12;

/** What the models in use have answered, day by day, and how satisfied those who rated are. */
function Answers() {
  const w = words();
  const [count, setCount] = useState(SERVED_AT_ONCE);
  const loaded = useLoad(async (signal) => {
    const deployed = (await all((cursor, limit) => listModels(cursor, limit, signal))).filter((model) => model.served_by);
    const rows = await Promise.all(deployed.slice(0, count).map(async (model): Promise<Served> => {
      const { by_day, drift, satisfaction } = await modelMetrics(model.id, signal);
      return { model, days: by_day ?? [], drift: drift ?? null, satisfaction: satisfaction.find((each) => each.id === model.id) };
    }));
    return { rows, next: deployed.length > count ? count + SERVED_AT_ONCE : null };
  }, [count], () => 30);
  return (
    <Card title={w.monitor.answers} note={w.monitor.answersNote}>
      <Show of={loaded}>
        {({ rows, next }) => rows.length === 0 ? <Empty title={w.home.nothingDeployed} /> : (<>
          <Table label={w.monitor.answers} rows={rows} id={({ model }) => model.id} columns={[
            { title: w.try.model, cell: ({ model }) => <a href={link("models", model.id)}><bdi>{model.name} {model.version}</bdi></a> },
            { title: w.monitor.answered, cell: ({ days }) => number(total(days, "answers")), numeric: true },
            { title: w.monitor.failed, cell: ({ days }) => number(total(days, "errors")), numeric: true },
            { title: w.monitor.most, cell: ({ days }) => seconds(days.at(-1)?.p95_seconds), numeric: true },
            { title: w.monitor.days, cell: ({ days }) => <Days days={days.slice(-14)} /> },
            { title: w.monitor.satisfied, cell: ({ satisfaction }) => <Satisfied of={satisfaction} /> },
            { title: w.monitor.drift, cell: ({ drift }) => <Drifts of={drift} /> },
          ]} />
          <More page={{ next }} onMore={setCount} />
        </>)}
      </Show>
    </Card>
  );
}

const total = (days: readonly Day[], name: "answers" | "errors"): number => days.reduce((sum, day) => sum + day[name], 0);
const seconds = (value: number | null | undefined): string => (value === null || value === undefined ? "–" : duration(value));

/** Answers of the last days as bars. */
function Days({ days }: { days: readonly Day[] }) {
  if (days.length === 0) return <>–</>;
  const most = Math.max(1, ...days.map((day) => day.answers));
  return (
    <svg class="days" viewBox={`0 0 ${days.length * 9} 24`} width={days.length * 9} height="24" role="img" aria-label={days.map((day) => `${day.day}: ${number(day.answers)}`).join(", ")}>
      {days.map((day, place) => <rect key={day.day} x={place * 9} width="7" y={24 - Math.max(1, (24 * day.answers) / most)} height={Math.max(1, (24 * day.answers) / most)} />)}
    </svg>
  );
}

function Satisfied({ of }: { of: Satisfaction | undefined }) {
  const w = words();
  if (!of || !of.ratings || typeof of.share !== "number") return <span class="muted">{w.monitor.unrated}</span>;
  return <bdi>{percent(of.share)} <span class="muted">[{percent(of.low ?? 0)}, {percent(of.high ?? 1)}], {w.monitor.ratings(number(of.ratings))}</span></bdi>;
}

/** Whether people ask for other things than what the model learnt. */
function Drifts({ of }: { of: Drift | null }) {
  const w = words();
  if (!of) return <span class="muted">{w.monitor.notLooked}</span>;
  return of.noticed_at ? <><Badge tone="bad">{w.monitor.differs}</Badge> <span class="muted">{ago(of.noticed_at)}</span></> : <Badge tone="good">{w.monitor.alike}</Badge>;
}

/** What was used this month, in tokens and in minutes of devices. */
function Costs() {
  const w = words();
  const [by, setBy] = useState<"model" | "key" | "job">("model");
  const loaded = useLoad(async (signal) => {
    const [used, models] = await Promise.all([showUsage(by, signal), all((cursor, limit) => listModels(cursor, limit, signal))]);
    return { rows: used.items, names: new Map(models.map((model) => [model.id, `${model.name} ${model.version}`])) };
  }, [by]);
  return (
    <Card title={w.monitor.costs} note={may("admin") ? w.monitor.costsNote : w.monitor.ownCostsNote}>
      <div class="stack">
        <Field label={w.monitor.by}>
          <select value={by} onChange={(event) => setBy(event.currentTarget.value as typeof by)}>
            {(["model", "key", "job"] as const).map((each) => <option key={each} value={each}>{w.monitor.groups[each]}</option>)}
          </select>
        </Field>
        <Show of={loaded}>
          {({ rows, names }) => rows.length === 0 ? <Empty title={w.monitor.nothingUsed} /> : (
            <Table label={w.monitor.costs} rows={rows} id={(row: Usage) => String(row.model ?? row.job ?? row.key)} columns={[
              { title: w.monitor.groups[by], cell: (row) => by === "job" ? <a href={link("train", row.job ?? "")}><bdi>{row.name}</bdi></a> : <bdi>{names.get(row.model ?? "") ?? (row[by] || w.monitor.noModel)}</bdi> },
              ...(by === "job" ? [] : [
                { title: w.monitor.requests, cell: (row: Usage) => number(row.requests ?? 0), numeric: true },
                { title: w.monitor.failed, cell: (row: Usage) => number(row.errors ?? 0), numeric: true },
                { title: w.train.tokens, cell: (row: Usage) => number((row.prompt_tokens ?? 0) + (row.completion_tokens ?? 0)), numeric: true },
              ]),
              { title: w.monitor.devices, cell: (row) => duration(row.device_seconds), numeric: true },
            ]} />
          )}
        </Show>
      </div>
    </Card>
  );
}
