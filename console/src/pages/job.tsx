import { useEffect, useRef, useState } from "preact/hooks";
import { cancelJob, followLog, jobMetrics, showJob } from "../api/calls";
import type { Job as JobShape, Stage } from "../api/shapes";
import { duration, isRecord, metric, moment, number } from "../format";
import { useAction, useLoad } from "../load";
import { link, may, words } from "../state";
import { Badge, Bar, Button, Card, Confirm, ErrorBox, Facts, Head, LinkButton, Notice, Show, StatusBadge, Table } from "../ui/parts";
import { Curves } from "../ui/pictures";
import { Examples, ScoresView } from "./scores";

const ENDED = ["completed", "failed", "cancelled"];
const live = (job: JobShape | undefined) => (job && ENDED.includes(job.status) ? undefined : 2);

/** One job: its stages as they go, the curves, the scores, the log. */
export function Job({ path }: { path: string[] }) {
  const id = path[0] ?? "";
  const loaded = useLoad((signal) => showJob(id, signal), [id], live);
  return <Show of={loaded}>{(job) => <JobView job={job} onChange={loaded.reload} />}</Show>;
}

function JobView({ job, onChange }: { job: JobShape; onChange: () => void }) {
  const w = words();
  const ended = ENDED.includes(job.status);
  const cancel = useAction();
  const trains = job.stages?.some((stage) => stage.stage === "train") || job.base_model !== null;
  const metrics = useLoad((signal) => jobMetrics(job.id, signal), [job.id, ended], () => (ended ? undefined : 4));
  const training = job.stages?.find((stage) => stage.stage === "train");
  return (
    <>
      <a class="crumb" href={link("train")}>{w.train.title}</a>
      <Head title={job.name} intro={`${w.kinds[job.kind] ?? job.kind}${w.comma}${moment(job.created_at)}`}>
        <StatusBadge status={job.status} />
        {!ended && may("trainer") && (job.cancel_requested ? <span class="muted">{w.job.cancelling}</span> : (
          <Confirm label={w.job.cancel} question={w.job.cancelQuestion} onYes={() => cancel.run(async () => {
            await cancelJob(job.id);
            onChange();
          })} />
        ))}
      </Head>
      <div class="stack">
        <ErrorBox error={cancel.error} />
        {job.status === "failed" && (
          <div class="notice bad" role="alert">
            <strong dir="auto">{job.problem?.detail ?? job.error}</strong>
            {job.problem?.remedy && <p dir="auto">{job.problem.remedy}</p>}
            {job.problem?.errors && <ul>{job.problem.errors.map((each) => <li key={each.loc}><code>{each.loc}</code> {each.msg}</li>)}</ul>}
          </div>
        )}
        <Results job={job} />
        <Card title={w.job.progress}>
          <Bar share={job.status === "completed" ? 1 : job.progress} label={w.job.progress} />
          {job.message && !ended && <p class="muted" dir="auto">{job.message}</p>}
          {(job.stages?.length ?? 0) > 0 && <Stages stages={job.stages ?? []} />}
          {!ended && (job.stages?.length ?? 0) === 0 && <p class="muted" role="status">{w.job.waits}</p>}
        </Card>
        <Trials stages={job.stages ?? []} />
        {trains && (metrics.data?.curves.length ?? 0) > 1 && <Card title={w.job.curves}><Curves points={metrics.data?.curves ?? []} /></Card>}
        {training && Object.keys(training.details).length > 0 && <Resources stage={training} />}
        {job.metrics.tuned && <ScoresView scores={job.metrics} />}
        {(metrics.data?.examples.length ?? 0) > 0 && <Examples examples={metrics.data?.examples ?? []} />}
        <Log id={job.id} ended={ended} />
      </div>
    </>
  );
}

/** What the job made, to go on with. */
function Results({ job }: { job: JobShape }) {
  const w = words();
  const { documents = [], dataset, model_id } = job.result;
  if (job.status !== "completed") return null;
  const onlyDocuments = !dataset && documents.length > 0;
  return (
    <Notice kind="good">
      <p>{w.job.done}</p>
      <div class="actions">
        {model_id && may("user") && job.stages?.some((stage) => stage.stage === "deploy") && <LinkButton kind="primary" href={link("try", model_id)}>{w.models.try}</LinkButton>}
        {model_id && <LinkButton href={link("models", model_id)}>{w.job.seeModel}</LinkButton>}
        {dataset && <LinkButton kind={model_id ? "plain" : "primary"} href={link("data", dataset)}>{w.job.seeDataset}</LinkButton>}
        {onlyDocuments && documents.map((id) => <LinkButton key={id} kind="primary" href={link("data", id)}>{w.job.seeDocuments}</LinkButton>)}
      </div>
    </Notice>
  );
}

const Stages = ({ stages }: { stages: readonly Stage[] }) => {
  const w = words();
  return (
    <Table label={w.job.stages} rows={stages} id={(stage) => stage.stage} columns={[
      { title: w.job.stage, cell: (stage) => w.stages[stage.stage] ?? stage.stage },
      { title: w.train.state, cell: (stage) => <><StatusBadge status={stage.status} />{stage.reused && <span class="muted"> {w.job.reused}</span>}</> },
      { title: w.job.message, cell: (stage) => <span dir="auto">{stage.message}</span> },
      { title: w.train.time, cell: (stage) => (stage.seconds === null ? "" : duration(stage.seconds)), numeric: true },
    ]} />
  );
};

function Resources({ stage }: { stage: Stage }) {
  const w = words();
  const value = (name: string) => (typeof stage.details[name] === "number" ? (stage.details[name] as number) : undefined);
  const facts: [string, number | undefined, (value: number) => string][] = [
    [w.job.speed, value("tokens_per_second"), (each) => number(each)],
    [w.job.peak, value("max_resident_mib"), (each) => `${number(each)} MiB`],
    [w.train.stepsTitle, value("steps"), number],
    [w.job.best, value("best_validation_loss"), metric],
    [w.job.cpu, value("cpu_seconds"), duration],
  ];
  const shown = facts.flatMap(([name, each, format]) => (each === undefined ? [] : [[name, format(each)] as const]));
  return shown.length ? <Card title={w.job.resources}><Facts of={shown} /></Card> : null;
}

/** The trials of a search over settings, the best one marked. */
function Trials({ stages }: { stages: readonly Stage[] }) {
  const w = words();
  const trials = stages.map((stage) => stage.details.trials).find(Array.isArray)?.filter(isRecord) ?? [];
  if (trials.length === 0) return null;
  const fixed = ["trial", "settings", "status", "validations", "seconds", "start_seconds", "reason"];
  const measured = Object.keys(trials[0] ?? {}).find((name) => !fixed.includes(name)) ?? "loss";
  const settings = [...new Set(trials.flatMap((trial) => Object.keys(isRecord(trial.settings) ? trial.settings : {})))];
  const value = (cell: unknown) => (typeof cell === "number" ? metric(cell) : cell === null || cell === undefined ? "–" : String(cell));
  return (
    <Card title={w.job.trials} note={w.job.trialsNote}>
      <Table label={w.job.trials} rows={trials} id={(trial) => String(trial.trial)} columns={[
        { title: w.job.trial, cell: (trial) => number(Number(trial.trial)), numeric: true },
        ...settings.map((name) => ({ title: name, cell: (trial: Record<string, unknown>) => <bdi>{value(isRecord(trial.settings) ? trial.settings[name] : undefined)}</bdi>, numeric: true })),
        { title: w.metrics[measured] ?? measured, cell: (trial) => (trial.status === "best" ? <strong>{value(trial[measured])}</strong> : value(trial[measured])), numeric: true },
        { title: w.train.time, cell: (trial) => duration(Number(trial.seconds ?? 0)), numeric: true },
        { title: w.train.state, cell: (trial) => <><Badge tone={trial.status === "best" ? "good" : trial.status === "failed" ? "bad" : "quiet"}>{w.job.trialStates[String(trial.status)] ?? String(trial.status)}</Badge>{trial.reason ? <span class="muted" dir="auto"> {String(trial.reason)}</span> : null}</> },
      ]} />
    </Card>
  );
}

/** The log, followed as it is written. */
function Log({ id, ended }: { id: string; ended: boolean }) {
  const w = words();
  const [open, setOpen] = useState(false);
  const [text, setText] = useState("");
  const [error, setError] = useState<unknown>();
  const box = useRef<HTMLPreElement>(null);
  useEffect(() => {
    if (!open) return;
    const stop = new AbortController();
    setText("");
    const read = async () => {
      try {
        for await (const part of followLog(id, stop.signal)) setText((before) => (before + part).slice(-60_000));
      } catch (problem) {
        if (!stop.signal.aborted) setError(problem);
      }
    };
    void read();
    return () => stop.abort();
  }, [id, open]);
  useEffect(() => box.current?.scrollTo(0, box.current.scrollHeight), [text]);
  return (
    <Card title={w.job.log} actions={<Button small aria-expanded={open} onClick={() => setOpen(!open)}>{open ? w.job.hideLog : w.job.showLog}</Button>}>
      <ErrorBox error={error} />
      {open && <pre ref={box} class="code" dir="ltr" tabIndex={0} aria-label={w.job.log}>{text || (ended ? w.job.noLog : w.loading)}</pre>}
    </Card>
  );
}
