import { listJobs, metricsText, readiness } from "../api/calls";
import { duration, metric, number, percent } from "../format";
import { useLoad } from "../load";
import { link, may, words } from "../state";
import { Badge, Card, Empty, Head, Show, StatusBadge, Table } from "../ui/parts";

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
