import { useRef, useState } from "preact/hooks";
import { collectFiles, deleteInput, listDatasets, listInputs } from "../api/calls";
import { upload } from "../api/uploads";
import type { Dataset, UserInput } from "../api/shapes";
import { ago, bytes, number } from "../format";
import { newKey, useAction, useOnce, usePages } from "../load";
import { go, link, may, words } from "../state";
import { Collect } from "./collect";
import { Badge, Bar, Button, Card, Confirm, Empty, ErrorBox, Head, More, Show, Table } from "../ui/parts";

/** Upload documents, see what was uploaded, collected and prepared. */
export function Data() {
  const w = words();
  const [chosen, choose] = useState<ReadonlySet<string>>(new Set());
  const inputs = usePages<UserInput>((cursor, signal) => (may("user") ? listInputs(cursor, 100, signal) : Promise.resolve({ items: [], next: null })), (item) => item.id, []);
  const datasets = usePages((cursor, signal) => listDatasets(undefined, cursor, 100, signal), (row) => row.id, [], () => 10);
  const start = useAction();
  const once = useOnce();
  const collect = () =>
    start.run(async () => {
      const job = await collectFiles({ inputs: [...chosen] } as Parameters<typeof collectFiles>[0], once([...chosen]));
      go("train", job.id);
    });
  const uploaded = (items: UserInput[]) => {
    choose((before) => new Set([...before, ...items.map((item) => item.id)]));
    inputs.reload();
  };
  return (
    <>
      <Head title={w.data.title} intro={w.data.intro} />
      <div class="stack">
        {may("user") && (
          <Card title={w.data.upload} note={w.data.uploadNote}>
            <Uploads onUploaded={uploaded} />
          </Card>
        )}
        {may("user") && (
          <Card title={w.data.files} note={may("trainer") ? w.data.filesNote : undefined}
            actions={may("trainer") && <Button kind="primary" busy={start.busy} disabled={chosen.size === 0} onClick={collect}>{w.data.read(chosen.size)}</Button>}>
            <ErrorBox error={start.error} />
            <Show of={inputs}>
              {(page) => page.items.length === 0 ? <Empty title={w.data.noFiles} /> : (
                <><Files items={page.items} chosen={chosen} onChoose={choose} onDeleted={inputs.reload} /><More page={page} onMore={inputs.more} /></>
              )}
            </Show>
          </Card>
        )}
        {may("trainer") && <Collect />}
        <Card title={w.data.datasets}>
          <Show of={datasets}>
            {(page) => page.items.length === 0 ? <Empty title={w.data.noDatasets}><p>{w.data.noDatasetsHint}</p></Empty> : <><Datasets items={page.items} /><More page={page} onMore={datasets.more} /></>}
          </Show>
        </Card>
      </div>
    </>
  );
}

function Files({ items, chosen, onChoose, onDeleted }: {
  items: readonly UserInput[]; chosen: ReadonlySet<string>; onChoose: (chosen: ReadonlySet<string>) => void; onDeleted: () => void;
}) {
  const w = words();
  const removing = useAction();
  const toggle = (id: string) => {
    const next = new Set(chosen);
    if (!next.delete(id)) next.add(id);
    onChoose(next);
  };
  const name = (item: UserInput) => item.metadata.filename ?? (item.input_type === "text" ? w.data.text : w.data.value);
  return (
    <>
      <ErrorBox error={removing.error} />
      <Table label={w.data.files} rows={items} id={(item) => item.id} columns={[
        ...(may("trainer") ? [{
          title: w.data.take,
          cell: (item: UserInput) => <input type="checkbox" checked={chosen.has(item.id)} aria-label={`${w.data.take}: ${name(item)}`} onChange={() => toggle(item.id)} />,
        }] : []),
        { title: w.data.name, cell: (item) => <bdi>{name(item)}</bdi> },
        { title: w.data.size, cell: (item) => bytes(item.size_bytes), numeric: true },
        { title: w.data.when, cell: (item) => <span class="nowrap">{ago(item.created_at)}</span> },
        ...(may("user") ? [{
          title: w.data.remove,
          cell: (item: UserInput) => (
            <Confirm small label={w.data.remove} question={w.data.removeQuestion} onYes={() => removing.run(async () => {
              await deleteInput(item.id);
              onDeleted();
            })} />
          ),
        }] : []),
      ]} />
    </>
  );
}

const Datasets = ({ items }: { items: readonly Dataset[] }) => {
  const w = words();
  return (
    <Table label={w.data.datasets} rows={items} id={(row) => row.id} columns={[
      { title: w.data.name, cell: (row) => <a href={link("data", row.artifact_id)}><bdi>{row.name}</bdi></a> },
      { title: w.data.kind, cell: (row) => <Badge tone={row.stage === "dataset" ? "good" : "quiet"}>{w.data.stages[row.stage]}</Badge> },
      { title: w.data.samples, cell: (row) => number(row.num_samples), numeric: true },
      { title: w.data.size, cell: (row) => bytes(row.size_bytes), numeric: true },
      { title: w.data.when, cell: (row) => <span class="nowrap">{ago(row.created_at)}</span> },
    ]} />
  );
};

interface Sending {
  file: File;
  once: string;
  share: number;
  error: unknown;
  done: boolean;
}

/** Files go up one after the other; one that failed is sent again under the same key, so that nothing is stored twice. */
function Uploads({ onUploaded }: { onUploaded: (items: UserInput[]) => void }) {
  const w = words();
  const [sendings, setSendings] = useState<Sending[]>([]);
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const update = (once: string, values: Partial<Sending>) =>
    setSendings((all) => all.map((each) => (each.once === once ? { ...each, ...values } : each)));
  const send = async (each: Sending) => {
    update(each.once, { error: undefined, share: 0 });
    try {
      const items = await upload(each.file, each.once, (share) => update(each.once, { share }));
      update(each.once, { done: true, share: 1 });
      onUploaded(items);
    } catch (error) {
      update(each.once, { error });
    }
  };
  const add = async (files: Iterable<File>) => {
    const added = [...files].map((file) => ({ file, once: newKey(), share: 0, error: undefined, done: false }));
    setSendings((all) => [...all, ...added]);
    for (const each of added) await send(each);
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    void add(event.dataTransfer?.files ?? []);
  };
  return (
    <>
      <div class={over ? "drop over" : "drop"} onDragOver={(event) => { event.preventDefault(); setOver(true); }} onDragLeave={() => setOver(false)} onDrop={drop}>
        <p class="muted">{w.data.drop}</p>
        <Button kind="primary" onClick={() => input.current?.click()}>{w.data.choose}</Button>
        <input ref={input} type="file" multiple hidden aria-label={w.data.choose} onChange={(event) => {
          void add(event.currentTarget.files ?? []);
          event.currentTarget.value = "";
        }} />
        <p class="muted small">{w.data.formats}</p>
      </div>
      {sendings.length > 0 && (
        <ul class="list" aria-live="polite">
          {sendings.map((each) => (
            <li key={each.once} class="upload">
              <bdi>{each.file.name}</bdi>
              <span>
                {each.done ? <Badge tone="good">{w.data.uploaded}</Badge> : each.error ? <Button small onClick={() => void send(each)}>{w.again}</Button> : <span class="muted">{bytes(each.file.size)}</span>}
              </span>
              {!each.done && !each.error && <Bar share={each.share} label={each.file.name} />}
              {each.error !== undefined && <ErrorBox error={each.error} />}
            </li>
          ))}
        </ul>
      )}
    </>
  );
}
