import { useState } from "preact/hooks";
import { collectFiles, listDropped, previewDataset, shareDataset, showDataset, startJob } from "../api/calls";
import type { DatasetDetails } from "../api/shapes";
import { bytes, isRecord, moment, number, percent, readable } from "../format";
import { useAction, useLoad, useOnce } from "../load";
import { go, link, may, words } from "../state";
import { Bar, Button, Card, Empty, ErrorBox, Facts, Field, Head, LinkButton, Notice, Show, Table } from "../ui/parts";
import { Markdown } from "../ui/markdown";
import { Sharing } from "../ui/sharing";

/** Collected documents, a prepared dataset or an index: counts, columns, samples, what was left out, the card. */
export function Dataset({ path }: { path: string[] }) {
  const id = path[0] ?? "";
  const loaded = useLoad((signal) => showDataset(id, signal), [id]);
  return <Show of={loaded}>{(data) => <Details data={data} onChange={loaded.reload} />}</Show>;
}

function Details({ data, onChange }: { data: DatasetDetails; onChange: () => void }) {
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
        {may("trainer") && <Sharing of={data} set={(shared) => shareDataset(data.id, shared)} onChange={onChange} />}
      </Head>
      <div class="stack">
        {warnings.map((text) => <Notice key={text} kind="warn"><span dir="auto">{text}</span></Notice>)}
        <Card title={w.data.counts}>
          <Facts of={[[w.data.samples, number(data.num_samples)], ...counts, [w.data.size, bytes(data.size_bytes)], [w.data.id, <code>{data.artifact_id}</code>]]} />
        </Card>
        {data.stage === "documents" && <Columns data={data} />}
        {data.stage === "documents" && may("trainer") && <PrepareForm data={data} />}
        {data.stage !== "index" && <Preview id={data.artifact_id} isDataset={isDataset} />}
        {isDataset && <Dropped data={data} count={data.counts.dropped ?? 0} />}
        {!isDataset && data.stage === "documents" && <Dropped data={data} count={sum(outcomesOf(data))} />}
        {isDataset && (data.counts.dropped_near_duplicate ?? 0) > 0 && <NearCopies data={data} />}
        {data.stage !== "index" && <Contents data={data} />}
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
  const once = useOnce();
  const others = Object.values(unread).flatMap((names) => (Array.isArray(names) ? names.map(String) : []));
  const guesses = Object.values(guessed).flatMap((names) => (Array.isArray(names) ? names.map(String) : []));
  const names = [...new Set([...guesses, ...others, ...namesOf(samples.data?.items ?? [])])];
  const inputs = inputsOf(samples.data?.items ?? []);
  if (names.length === 0) return null;
  const changed = ROLES.some((role) => chosen[role] !== first(role));
  const read = () =>
    again.run(async () => {
      const columns = Object.fromEntries(ROLES.flatMap((role) => (chosen[role] ? [[role, chosen[role]]] : [])));
      const job = await collectFiles({ inputs, columns } as Parameters<typeof collectFiles>[0], once({ inputs, columns }));
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
  const once = useOnce();
  const submit = (event: Event) => {
    event.preventDefault();
    start.run(async () => {
      const redact = ["secret", ...(personal ? ["email", "ip", "phone", "card", "iban", "national_number"] : [])];
      const prepare = { ...(records ? { filters: ["near_duplicate"] } : {}), redact, split: { by: "group", test: test / 100, validation: 0.05 } };
      const recipe = { name, documents: [data.artifact_id], prepare, ...(index ? { embed: {} } : {}) };
      const job = await startJob({ recipe } as Parameters<typeof startJob>[0], once(recipe));
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

function turnsOf(sample: Record<string, unknown>): Record<string, unknown>[] {
  let messages: unknown = sample.messages ?? metadataOf(sample).messages;
  if (typeof messages === "string") {
    try {
      messages = JSON.parse(messages);
    } catch {
      messages = [];
    }
  }
  return Array.isArray(messages) ? messages.filter(isRecord) : [];
}

const textOf = (sample: Record<string, unknown>): string =>
  turnsOf(sample).map((turn) => String(turn.content ?? "")).join("\n") || String(sample.text ?? "").slice(0, 1200);

function Sample({ sample }: { sample: Record<string, unknown> }) {
  const w = words();
  const turns = turnsOf(sample);
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

const countsIn = (value: unknown): Record<string, number> =>
  isRecord(value) ? Object.fromEntries(Object.entries(value).filter((pair): pair is [string, number] => typeof pair[1] === "number" && pair[1] > 0)) : {};
const sum = (counts: Record<string, number>): number => Object.values(counts).reduce((total, each) => total + each, 0);
/** What became of files that made no document. */
const outcomesOf = (data: DatasetDetails): Record<string, number> => {
  const { collected: _, ...left } = countsIn(data.details.outcomes);
  return left;
};

/** What was left out, by reason; a click shows each with the value that decided. */
function Dropped({ data, count }: { data: DatasetDetails; count: number }) {
  const w = words();
  const id = data.artifact_id;
  const [reason, setReason] = useState<string | null>(null);
  const reasons = Object.entries(data.stage === "dataset" ? countsIn(data.details.drops) : outcomesOf(data)).sort((one, other) => other[1] - one[1]);
  const most = Math.max(1, ...reasons.map(([, each]) => each));
  const rows = useLoad((signal) => (reason === null ? Promise.resolve({ items: [], next: null }) : listDropped(id, reason || undefined, 100, signal)), [id, reason]);
  if (data.stage !== "dataset" && count === 0) return null;
  return (
    <Card title={`${w.data.dropped}: ${number(count)}`} note={count ? w.data.droppedNote : w.data.nothingDropped}
      actions={count > 0 && <Button small aria-pressed={reason === ""} onClick={() => setReason(reason === "" ? null : "")}>{w.data.showDropped}</Button>}>
      {reasons.length > 0 && (
        <div class="scores">
          {reasons.map(([name, each]) => (
            <div key={name} class="score">
              <span><Button small aria-pressed={reason === name} onClick={() => setReason(reason === name ? null : name)}>{w.reasons[name] ?? name}</Button></span>
              <span class="numeric">{number(each)}</span>
              <Bar share={each / most} label={w.reasons[name] ?? name} />
            </div>
          ))}
        </div>
      )}
      {reason !== null && (
        <Show of={rows}>
          {(page) => page.items.length === 0 ? <p class="muted">{w.data.notListed}</p> : (
            <Table label={w.data.dropped} rows={page.items.map((row, number) => ({ ...row, number }))} id={(row) => String(row.number)} columns={[
              { title: w.data.reason, cell: (row: Record<string, unknown>) => w.reasons[String(row.reason)] ?? String(row.reason) },
              { title: w.data.value1, cell: (row: Record<string, unknown>) => <bdi>{readable(String(row.value ?? ""))}</bdi> },
              { title: w.data.name, cell: (row: Record<string, unknown>) => <bdi>{readable([row.group, row.path ?? row.source ?? row.id].filter(Boolean).join("/"))}</bdi> },
            ]} />
          )}
        </Show>
      )}
    </Card>
  );
}

interface Pair {
  copy: string;
  original: string;
  alike: number;
}

/** Pairs of which one was left out, with their texts where the first documents hold them. */
function NearCopies({ data }: { data: DatasetDetails }) {
  const w = words();
  const loaded = useLoad(async (signal) => {
    const [dropped, documents] = await Promise.all([
      listDropped(data.artifact_id, "near_duplicate", 20, signal),
      data.parents[0] ? previewDataset(data.parents[0], "train", 100, signal).catch(() => ({ items: [] })) : { items: [] },
    ]);
    const texts = new Map(documents.items.map((each: Record<string, unknown>) => [`${String(each.group)}/${String(each.path)}`, textOf(each)]));
    const pairs = dropped.items.flatMap((row): Pair[] => {
      const parts = /^([\d.]+) like (.+)$/s.exec(String(row.value ?? ""));
      return parts ? [{ copy: `${String(row.group)}/${String(row.path)}`, original: parts[2] ?? "", alike: Number(parts[1]) }] : [];
    });
    return { pairs, texts };
  }, [data.artifact_id]);
  return (
    <Card title={w.data.pairs} note={w.data.pairsNote}>
      <Show of={loaded}>
        {({ pairs, texts }) => pairs.map((pair) => (
          <div key={pair.copy} class="example">
            <p class="muted small">{w.data.alike(percent(pair.alike))}</p>
            <div class="answers">
              {([[w.data.leftOut, pair.copy], [w.data.remains, pair.original]] as const).map(([title, name]) => (
                <div key={title} tabIndex={0} role="group" aria-label={title}><h3>{title}: <bdi>{readable(name)}</bdi></h3><div dir="auto">{texts.get(name) ?? ""}</div></div>
              ))}
            </div>
          </div>
        ))}
      </Show>
    </Card>
  );
}

/** Licences, languages and labels of what is there, and the personal data that was removed. */
function Contents({ data }: { data: DatasetDetails }) {
  const w = words();
  const found = isRecord(data.details.redactions) ? Object.entries(data.details.redactions) : [];
  const parts = ([[w.models.license, "licenses"], [w.data.language, "languages"], [w.data.sourceKind, "kinds"]] as const)
    .map(([title, name]) => [title, Object.entries(countsIn(data.details[name])).sort((one, other) => other[1] - one[1])] as const).filter(([, counts]) => counts.length > 0);
  if (found.length + parts.length === 0) return null;
  return (
    <Card title={w.data.contents}>
      <div class="grid">
        {found.length > 0 && (
          <section>
            <h3>{w.data.personal}</h3>
            <p class="muted small">{w.data.personalNote}</p>
            <ul class="list">{found.map(([name, count]) => <li key={name}><span>{w.data.personalKinds[name] ?? name}</span><span class="numeric">{number(Number(count))}</span></li>)}</ul>
          </section>
        )}
        {parts.map(([title, counts]) => (
          <section key={title}>
            <h3>{title}</h3>
            <ul class="list">{counts.slice(0, 12).map(([name, count]) => <li key={name}><bdi>{name === "unknown" || name === "" ? w.models.unknownLicense : name}</bdi><span class="numeric">{number(count)}</span></li>)}</ul>
          </section>
        ))}
      </div>
    </Card>
  );
}
