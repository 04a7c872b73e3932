/** Trainings side by side: their curves in one picture, what was set differently, what came of it. */
import type { ComponentChildren } from "preact";
import { jobMetrics, showJob } from "../api/calls";
import type { Job, JobMetrics } from "../api/shapes";
import { duration, isRecord, metric } from "../format";
import { useLoad } from "../load";
import { link, words } from "../state";
import { Badge, Card, Head, Show, StatusBadge, Table } from "../ui/parts";
import { type Line, Lines, lowerIsBetter } from "../ui/pictures";

interface Run {
  job: Job;
  metrics: JobMetrics;
}

export function Compare({ path }: { path: string[] }) {
  const w = words();
  const ids = path.slice(1);
  const loaded = useLoad(
    (signal) => Promise.all(ids.map(async (id): Promise<Run> => {
      const [job, metrics] = await Promise.all([showJob(id, signal), jobMetrics(id, signal)]);
      return { job, metrics };
    })),
    [ids.join(" ")],
    (runs) => (runs?.some(({ job }) => job.status === "running") ? 5 : undefined),
  );
  return (
    <>
      <a class="crumb" href={link("train")}>{w.train.title}</a>
      <Head title={w.compare.title} intro={w.compare.intro} />
      <Show of={loaded}>{(runs) => <Runs runs={runs} />}</Show>
    </>
  );
}

const settingsOf = (job: Job): Record<string, unknown> => (isRecord(job.config.train) ? job.config.train : {});

function Runs({ runs }: { runs: readonly Run[] }) {
  const w = words();
  const lines = runs.flatMap(({ job, metrics }, number): Line[] => {
    const points = metrics.curves.flatMap((point) => (typeof point.validation_loss === "number" ? [[point.step ?? 0, point.validation_loss] as const] : []));
    return points.length > 1 ? [{ name: `${number + 1}. ${job.name}`, points }] : [];
  });
  const settings = [...new Set(runs.flatMap(({ job }) => Object.keys(settingsOf(job))))]
    .filter((name) => new Set(runs.map(({ job }) => JSON.stringify(settingsOf(job)[name]))).size > 1);
  const names = [...new Set(runs.flatMap(({ job }) => Object.keys(job.metrics.tuned ?? {})))];
  const best = (name: string): number | undefined => {
    const values = runs.flatMap(({ job }) => (typeof job.metrics.tuned?.[name] === "number" ? [job.metrics.tuned[name] as number] : []));
    return new Set(values).size < 2 ? undefined : lowerIsBetter(name) ? Math.min(...values) : Math.max(...values);
  };
  const head = (title: string) => ({ title, cell: (row: Row) => row.title });
  const columns = [head(w.compare.what), ...runs.map(({ job }, number) => ({ title: `${number + 1}. ${job.name}`, cell: (row: Row) => row.cell({ job, metrics: runs[number]?.metrics ?? { metrics: {}, examples: [], curves: [] } }), numeric: true }))];
  const rows: Row[] = [
    { title: w.train.state, cell: ({ job }) => <StatusBadge status={job.status} /> },
    { title: w.models.gate, cell: ({ job }) => (typeof job.metrics.gate?.passed === "boolean" ? <Badge tone={job.metrics.gate.passed ? "good" : "bad"}>{job.metrics.gate.passed ? w.evaluation.passed : w.evaluation.notPassed}</Badge> : "–") },
    { title: w.monitor.took, cell: ({ job }) => (job.started_at && job.completed_at ? duration((Date.parse(job.completed_at) - Date.parse(job.started_at)) / 1000) : "–") },
    ...settings.map((name): Row => ({ title: name, cell: ({ job }) => <bdi>{shown(settingsOf(job)[name])}</bdi> })),
    ...names.map((name): Row => ({
      title: w.metrics[name] ?? name,
      cell: ({ job }) => {
        const value = job.metrics.tuned?.[name];
        return typeof value === "number" && value === best(name) ? <strong>{metric(value)} ✓</strong> : metric(value);
      },
    })),
    { title: w.compare.pages, cell: ({ job }) => <a href={link("train", job.id)}>{w.models.training}</a> },
  ];
  return (
    <div class="stack">
      {lines.length > 0 && <Card title={w.compare.loss}><Lines lines={lines} label={w.compare.curves(lines.map((line) => `${line.name} ${metric(line.points.at(-1)?.[1])}`).join(w.comma))} /></Card>}
      <Card title={w.compare.values} note={w.compare.note}><Table label={w.compare.values} rows={rows} id={(row) => row.title} columns={columns} /></Card>
    </div>
  );
}

interface Row {
  title: string;
  cell: (run: Run) => ComponentChildren;
}

const shown = (value: unknown): string =>
  value === undefined || value === null ? "–" : typeof value === "number" ? metric(value) : typeof value === "object" ? JSON.stringify(value) : String(value);
