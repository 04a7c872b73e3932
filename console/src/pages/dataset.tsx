import { useState } from "preact/hooks";
import { collectFiles, listDropped, previewDataset, showDataset, startJob } from "../api/calls";
import type { DatasetDetails } from "../api/shapes";
import { bytes, isRecord, moment, number } from "../format";
import { newKey, useAction, useLoad } from "../load";
import { go, link, may, words } from "../state";
import { Button, Card, Empty, ErrorBox, Facts, Field, Head, LinkButton, Notice, Show, Table } from "../ui/parts";
import { Markdown } from "../ui/markdown";

/** Collected documents, a prepared dataset or an index: counts, columns, samples, what was left out, the card. */
export function Dataset({ path }: { path: string[] }) {
  const id = path[0] ?? "";
  const loaded = useLoad((signal) => showDataset(id, signal), [id]);
  return <Show of={loaded}>{(data) => <Details data={data} />}</Show>;
}

function Details({ data }: { data: DatasetDetails }) {
  const w = words();
  const isDataset = data.stage === "dataset";
  const warnings = Array.isArray(data.details.warnings) ? data.details.warnings.map(String) : [];
  const counts = isDataset
    ? ([["train", w.data.train], ["validation", w.data.validation], ["test", w.data.test], ["dropped", w.data.dropped]] as const)
        .flatMap(([name, title]) => (data.counts[name] === undefined ? [] : [[title, number(data.counts[name])] as const]))
    : [];
  return (
    <>
      <a class="crumb" href={link("data")}>{w.data.title}</a>
      <Head title={data.name} intro={`${w.data.stages[data.stage]}${w.comma}${moment(data.created_at)}`}>
        {isDataset && may("trainer") && <LinkButton kind="primary" href={link("train", "new", "dataset", data.artifact_id, data.name)}>{w.data.trainOn}</LinkButton>}
      </Head>
      <div class="stack">
        {warnings.map((text) => <Notice key={text} kind="warn"><span dir="auto">{text}</span></Notice>)}
        <Card title={w.data.counts}>
          <Facts of={[[w.data.samples, number(data.num_samples)], ...counts, [w.data.size, bytes(data.size_bytes)], [w.data.id, <code>{data.artifact_id}</code>]]} />
        </Card>
        {data.stage === "documents" && <Columns data={data} />}
        {data.stage === "documents" && may("trainer") && <PrepareForm data={data} />}
        {data.stage !== "index" && <Preview id={data.artifact_id} isDataset={isDataset} />}
        {isDataset && <Dropped id={data.artifact_id} count={data.counts.dropped ?? 0} />}
        {data.card && <Card title={w.data.card}><div class="scroll" tabIndex={0} role="region" aria-label={w.data.card}><Markdown text={data.card} /></div></Card>}
      </div>
    </>
  );
}

/** The names under which a document kept the fields of its record. */
function namesOf(documents: readonly Record<string, unknown>[]): string[] {
  const names = new Set<string>();
  for (const document of documents) {
    const metadata = metadataOf(document);
    for (const part of [metadata.columns, metadata.fields]) {
      if (!isRecord(part)) continue;
      for (const [name, value] of Object.entries(part)) names.add(part === metadata.columns ? String(value) : name);
    }
  }
  return [...names].filter((name) => name !== "undefined");
}

const metadataOf = (document: Record<string, unknown>): Record<string, unknown> => {
  try {
    const value: unknown = typeof document.metadata === "string" ? JSON.parse(document.metadata) : document.metadata;
    return isRecord(value) ? value : {};
  } catch {
    return {};
  }
};

const inputsOf = (documents: readonly Record<string, unknown>[]): string[] => [
  ...new Set(documents.map((document) => metadataOf(document).user_input).filter((id): id is string => typeof id === "string")),
];

const ROLES = ["question", "answer", "text", "label"] as const;

/** Which column was read as what, and another reading by a choice. */
function Columns({ data }: { data: DatasetDetails }) {
  const w = words();
  const guessed = isRecord(data.details.columns) ? data.details.columns : {};
  const unread = isRecord(data.details.unrecognized) ? data.details.unrecognized : {};
  const first = (role: string) => (Array.isArray(guessed[role]) ? String(guessed[role][0] ?? "") : "");
  const [chosen, choose] = useState<Record<string, string>>(() => Object.fromEntries(ROLES.map((role) => [role, first(role)])));
  const samples = useLoad((signal) => previewDataset(data.artifact_id, "train", 100, signal), [data.artifact_id]);
  const again = useAction();
  const others = Object.values(unread).flatMap((names) => (Array.isArray(names) ? names.map(String) : []));
  const guesses = Object.values(guessed).flatMap((names) => (Array.isArray(names) ? names.map(String) : []));
  const names = [...new Set([...guesses, ...others, ...namesOf(samples.data?.items ?? [])])];
  const inputs = inputsOf(samples.data?.items ?? []);
  if (names.length === 0) return null;
  const changed = ROLES.some((role) => chosen[role] !== first(role));
  const read = () =>
    again.run(async () => {
      const columns = Object.fromEntries(ROLES.flatMap((role) => (chosen[role] ? [[role, chosen[role]]] : [])));
      const job = await collectFiles({ inputs, columns } as Parameters<typeof collectFiles>[0], newKey());
      go("train", job.id);
    });
  return (
    <Card title={w.data.columns} note={others.length && !guesses.length ? w.data.columnsUnread : w.data.columnsNote}>
      <div class="form">
        <div class="row">
          {ROLES.map((role) => (
            <Field key={role} label={w.data.roles[role]}>
              <select value={chosen[role]} disabled={!may("trainer")} onChange={(event) => choose({ ...chosen, [role]: event.currentTarget.value })}>
                <option value="">{w.data.noColumn}</option>
                {names.map((name) => <option key={name} value={name}>{name}</option>)}
              </select>
            </Field>
          ))}
        </div>
        <ErrorBox error={again.error} />
        {may("trainer") && changed && (inputs.length > 0
          ? <div class="actions"><Button kind="primary" busy={again.busy} onClick={read}>{w.data.readAgain}</Button></div>
          : <p class="muted">{w.data.notUploaded}</p>)}
      </div>
    </Card>
  );
}

/** From documents to a dataset. */
function PrepareForm({ data }: { data: DatasetDetails }) {
  const w = words();
  const records = data.data_type === "structured";
  const [name, setName] = useState(() => data.name.replace(/^collect-/, "").replace(/[^a-z0-9._-]+/g, "-") || "dataset");
  const [test, setTest] = useState(10);
  const [index, setIndex] = useState(true);
  const [personal, setPersonal] = useState(true);
  const start = useAction();
  const submit = (event: Event) => {
    event.preventDefault();
    start.run(async () => {
      const redact = ["secret", ...(personal ? ["email", "ip", "phone", "card", "iban", "national_number"] : [])];
      const prepare = { ...(records ? { filters: ["near_duplicate"] } : {}), redact, split: { by: "group", test: test / 100, validation: 0.05 } };
      const recipe = { name, documents: [data.artifact_id], prepare, ...(index ? { embed: {} } : {}) };
      const job = await startJob({ recipe } as Parameters<typeof startJob>[0], newKey());
      go("train", job.id);
    });
  };
  return (
    <Card title={w.data.prepare} note={w.data.prepareNote}>
      <form class="form" onSubmit={submit}>
        <div class="row">
          <Field label={w.data.datasetName} hint={w.train.nameHint}>
            <input required dir="ltr" pattern="[a-z0-9][a-z0-9._\-]{0,99}" value={name} onInput={(event) => setName(event.currentTarget.value)} />
          </Field>
          <Field label={w.data.heldOut} hint={w.data.heldOutHint}>
            <input type="number" min={1} max={60} required value={test} onInput={(event) => setTest(Number(event.currentTarget.value))} />
          </Field>
        </div>
        <label class="check"><input type="checkbox" checked={personal} onChange={() => setPersonal(!personal)} /><span>{w.data.redact}<span class="hint"> {w.data.redactHint}</span></span></label>
        <label class="check"><input type="checkbox" checked={index} onChange={() => setIndex(!index)} /><span>{w.data.index}<span class="hint"> {w.data.indexHint}</span></span></label>
        <ErrorBox error={start.error} />
        <div class="actions"><Button type="submit" kind="primary" busy={start.busy}>{w.data.prepareStart}</Button></div>
      </form>
    </Card>
  );
}

function Preview({ id, isDataset }: { id: string; isDataset: boolean }) {
  const w = words();
  const [split, setSplit] = useState<"train" | "validation" | "test">("train");
  const samples = useLoad((signal) => previewDataset(id, split, 5, signal), [id, split]);
  return (
    <Card title={w.data.preview} note={isDataset ? w.data.previewNote : undefined}>
      {isDataset && (
        <div class="tabs" role="group" aria-label={w.data.preview}>
          {(["train", "validation", "test"] as const).map((each) => <Button key={each} small aria-pressed={split === each} onClick={() => setSplit(each)}>{w.data[each]}</Button>)}
        </div>
      )}
      <Show of={samples}>
        {(page) => page.items.length === 0 ? <Empty title={w.data.noSamples} /> : (
          <div>{page.items.map((sample, number) => <Sample key={String(sample.id ?? number)} sample={sample} />)}</div>
        )}
      </Show>
    </Card>
  );
}

function Sample({ sample }: { sample: Record<string, unknown> }) {
  const w = words();
  let messages: unknown = sample.messages ?? metadataOf(sample).messages;
  if (typeof messages === "string") {
    try {
      messages = JSON.parse(messages);
    } catch {
      messages = [];
    }
  }
  const turns = Array.isArray(messages) ? messages.filter(isRecord) : [];
  const picture = [sample.image, sample.picture].find((value) => typeof value === "string" && value.startsWith("data:image/"));
  const label = sample.label ?? metadataOf(sample).label;
  return (
    <div class="example">
      <p class="muted small"><bdi>{String(sample.path ?? sample.group ?? "")}</bdi>{label !== undefined && label !== null && label !== "" && <> · {w.data.roles.label}: <bdi>{String(label)}</bdi></>}</p>
      {typeof picture === "string" && <img src={picture} alt={String(sample.path ?? "")} />}
      {turns.length > 0
        ? turns.map((turn, number) => (
            <p key={number} class={turn.role === "assistant" ? "prompt taught" : "prompt"}><strong>{w.data.turns[String(turn.role)] ?? String(turn.role)}: </strong><bdi>{String(turn.content ?? "")}</bdi></p>
          ))
        : <p class="prompt" dir="auto">{String(sample.text ?? "").slice(0, 1200)}</p>}
    </div>
  );
}

function Dropped({ id, count }: { id: string; count: number }) {
  const w = words();
  const [open, setOpen] = useState(false);
  const rows = useLoad((signal) => (open ? listDropped(id, undefined, 100, signal) : Promise.resolve({ items: [], next: null })), [id, open]);
  return (
    <Card title={`${w.data.dropped}: ${number(count)}`} note={count ? w.data.droppedNote : w.data.nothingDropped}>
      {count > 0 && !open && <Button onClick={() => setOpen(true)}>{w.data.showDropped}</Button>}
      {open && (
        <Show of={rows}>
          {(page) => (
            <Table label={w.data.dropped} rows={page.items.map((row, number) => ({ ...row, number }))} id={(row) => String(row.number)} columns={[
              { title: w.data.reason, cell: (row: Record<string, unknown>) => w.reasons[String(row.reason)] ?? String(row.reason) },
              { title: w.data.value1, cell: (row: Record<string, unknown>) => <bdi>{String(row.value ?? "")}</bdi> },
              { title: w.data.name, cell: (row: Record<string, unknown>) => <bdi>{String(row.path ?? row.source ?? row.id ?? "")}</bdi> },
            ]} />
          )}
        </Show>
      )}
    </Card>
  );
}
