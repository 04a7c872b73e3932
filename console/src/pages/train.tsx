import { useState } from "preact/hooks";
import { all, listBases, listDatasets, listInputs, listJobs, listModels, listSpecialists, planTraining, startJob } from "../api/calls";
import type { Pack, Plan } from "../api/shapes";
import { ago, bytes, duration, number } from "../format";
import { newKey, useAction, useLoad, usePages } from "../load";
import { go, link, may, words } from "../state";
import { Bar, Button, Card, Empty, ErrorBox, Facts, Field, Head, LinkButton, More, Notice, Show, StatusBadge, Table } from "../ui/parts";

/** The jobs, or three steps to a new training. */
export function Train({ path }: { path: string[] }) {
  return path[0] === "new" ? <NewTraining path={path.slice(1)} /> : <Jobs />;
}

function Jobs() {
  const w = words();
  const loaded = usePages((cursor, signal) => listJobs(undefined, cursor, 100, signal), (job) => job.id, [], (page) => (page?.items.some((job) => job.status === "running" || job.status === "pending") ? 3 : 15));
  const [chosen, choose] = useState<readonly string[]>([]);
  const toggle = (id: string) => choose(chosen.includes(id) ? chosen.filter((each) => each !== id) : [...chosen, id].slice(-4));
  return (
    <>
      <Head title={w.train.title} intro={w.train.intro}>
        {chosen.length > 1 && <LinkButton href={link("train", "compare", ...chosen)}>{w.compare.begin(chosen.length)}</LinkButton>}
        {may("trainer") && <LinkButton kind="primary" href={link("train", "new")}>{w.train.start}</LinkButton>}
      </Head>
      <Card>
        <Show of={loaded}>
          {(page) => page.items.length === 0 ? <Empty title={w.home.noJobs} /> : (
            <>
              <Table label={w.train.jobs} rows={page.items} id={(job) => job.id} columns={[
                { title: w.data.name, cell: (job) => <a href={link("train", job.id)}><bdi>{job.name}</bdi></a> },
                { title: w.data.kind, cell: (job) => w.kinds[job.kind] ?? job.kind },
                { title: w.train.state, cell: (job) => <><StatusBadge status={job.status} />{job.status === "running" && <Bar share={job.progress} label={job.name} />}</> },
                { title: w.train.base, cell: (job) => <bdi>{job.base_model ?? "–"}</bdi> },
                { title: w.data.when, cell: (job) => <span class="nowrap">{ago(job.created_at)}</span> },
                { title: w.compare.choose, cell: (job) => (job.base_model ? <input type="checkbox" checked={chosen.includes(job.id)} aria-label={`${w.compare.choose}: ${job.name}`} onChange={() => toggle(job.id)} /> : "") },
              ]} />
              <More page={page} onMore={loaded.more} />
            </>
          )}
        </Show>
      </Card>
    </>
  );
}

interface Choice {
  from: "dataset" | "pack";
  dataset: string;
  pack: string;
  model: string;
  inputs: string[];
  base: string;
  method: "lora" | "full" | "prompt";
  name: string;
  epochs: number;
  length: number;
  deploy: boolean;
  /** Who sets the rest: what is set here, a search over settings, or a choice within a time. */
  search: "none" | "sweep" | "auto";
  trials: number;
  minutes: number;
}

/** From a dataset or a domain pack in three steps; the plan before the start. */
function NewTraining({ path }: { path: string[] }) {
  const w = words();
  const [step, setStep] = useState(path[0] === "dataset" && path[1] ? 1 : 0);
  const [choice, setChoice] = useState<Choice>({
    from: path[0] === "pack" ? "pack" : "dataset", dataset: path[0] === "dataset" ? path[1] ?? "" : "", pack: path[0] === "pack" ? path[1] ?? "" : "", model: path[0] === "pack" ? path[2] ?? "" : "",
    inputs: [], base: "builtin/smollm2-135m-instruct", method: "lora", name: (path[0] === "pack" ? path[3] : path[2]) ?? "my-model", epochs: 1, length: 512, deploy: true, search: "none", trials: 6, minutes: 30,
  });
  const change = (values: Partial<Choice>) => setChoice({ ...choice, ...values });
  if (!may("trainer")) return <Notice kind="warn">{w.errors.role("trainer")}</Notice>;
  const views = [<What choice={choice} change={change} onNext={() => setStep(1)} />, <How choice={choice} change={change} onNext={() => setStep(2)} onBack={() => setStep(0)} />, <PlanStep choice={choice} onBack={() => setStep(1)} />];
  return (
    <>
      <a class="crumb" href={link("train")}>{w.train.title}</a>
      <Head title={w.train.start} />
      <ol class="steps">{w.train.steps.map((title, number) => <li key={title} aria-current={number === step ? "step" : undefined}>{title}</li>)}</ol>
      {views[step]}
    </>
  );
}

type StepProps = { choice: Choice; change: (values: Partial<Choice>) => void; onNext: () => void };

function What({ choice, change, onNext }: StepProps) {
  const w = words();
  const datasets = usePages((cursor, signal) => listDatasets("dataset", cursor, 100, signal), (row) => row.id, []);
  const packs = useLoad(listSpecialists, []);
  const inputs = usePages((cursor, signal) => listInputs(cursor, 100, signal), (item) => item.id, []);
  const ready = choice.from === "dataset" ? choice.dataset !== "" : choice.pack !== "" && choice.model !== "" && choice.inputs.length > 0;
  return (
    <div class="stack">
      <div class="tabs" role="group" aria-label={w.train.steps[0]}>
        <Button aria-pressed={choice.from === "dataset"} onClick={() => change({ from: "dataset" })}>{w.train.fromDataset}</Button>
        <Button aria-pressed={choice.from === "pack"} onClick={() => change({ from: "pack" })}>{w.train.fromPack}</Button>
      </div>
      {choice.from === "dataset" ? (
        <Card title={w.train.whichDataset}>
          <Show of={datasets}>
            {(page) => page.items.length === 0 ? <Empty title={w.train.noDataset}><LinkButton href={link("data")}>{w.data.title}</LinkButton></Empty> : (
              <fieldset>
                <legend class="unseen">{w.train.whichDataset}</legend>
                {page.items.map((each) => (
                  <label key={each.id} class="choice">
                    <input type="radio" name="dataset" checked={choice.dataset === each.artifact_id} onChange={() => change({ dataset: each.artifact_id, name: each.name })} />
                    <span><strong><bdi>{each.name}</bdi></strong><span class="muted">{w.train.samples(number(each.counts.train ?? each.num_samples))}{w.comma}{ago(each.created_at)}</span></span>
                  </label>
                ))}
                <More page={page} onMore={datasets.more} />
              </fieldset>
            )}
          </Show>
        </Card>
      ) : (
        <>
          <Card title={w.train.whichPack}>
            <Show of={packs}>{(page) => <PackChoice packs={page.items} choice={choice} change={change} />}</Show>
          </Card>
          <Card title={w.train.whichFiles} note={w.train.whichFilesNote}>
            <Show of={inputs}>
              {(page) => page.next === null && page.items.filter((item) => item.input_type === "file").length === 0 ? <Empty title={w.data.noFiles}><LinkButton href={link("data")}>{w.data.upload}</LinkButton></Empty> : (
                <fieldset>
                  <legend class="unseen">{w.train.whichFiles}</legend>
                  {page.items.filter((item) => item.input_type === "file").map((item) => (
                    <label key={item.id} class="check">
                      <input type="checkbox" checked={choice.inputs.includes(item.id)} onChange={() => change({
                        inputs: choice.inputs.includes(item.id) ? choice.inputs.filter((id) => id !== item.id) : [...choice.inputs, item.id],
                      })} />
                      <span><bdi>{item.metadata.filename}</bdi> <span class="muted">{bytes(item.size_bytes)}</span></span>
                    </label>
                  ))}
                  <More page={page} onMore={inputs.more} />
                </fieldset>
              )}
            </Show>
          </Card>
        </>
      )}
      <div class="actions"><Button kind="primary" disabled={!ready} onClick={onNext}>{w.train.next}</Button></div>
    </div>
  );
}

function PackChoice({ packs, choice, change }: { packs: readonly Pack[]; choice: Choice; change: (values: Partial<Choice>) => void }) {
  const w = words();
  return (
    <fieldset>
      <legend class="unseen">{w.train.whichPack}</legend>
      {packs.flatMap((pack) =>
        Object.entries(pack.models).map(([name, model]) => (
          <label key={`${pack.id}/${name}`} class="choice">
            <input type="radio" name="pack" checked={choice.pack === pack.id && choice.model === name} onChange={() => change({ pack: pack.id, model: name, name: model.name, base: "" })} />
            <span><strong dir="ltr">{pack.title}: {name}</strong><span class="muted" dir="auto">{model.description}</span></span>
          </label>
        )),
      )}
    </fieldset>
  );
}

function How({ choice, change, onNext, onBack }: StepProps & { onBack: () => void }) {
  const w = words();
  const bases = useLoad(listBases, []);
  const models = useLoad((signal) => all((cursor, limit) => listModels(cursor, limit, signal)), []);
  const own = (models.data ?? []).filter((model) => model.family !== "base" && model.task === "causal_lm");
  const submit = (event: Event) => {
    event.preventDefault();
    onNext();
  };
  return (
    <Card>
      <form class="form" onSubmit={submit}>
        <Field label={w.train.modelName} hint={w.train.nameHint}>
          <input required dir="ltr" pattern="[a-z0-9][a-z0-9._\-]{0,99}" value={choice.name} onInput={(event) => change({ name: event.currentTarget.value })} />
        </Field>
        {choice.from === "dataset" ? (
          <>
            <Field label={w.train.base} hint={w.train.baseHint}>
              <select value={choice.base} onChange={(event) => change({ base: event.currentTarget.value })}>
                {(bases.data?.items ?? []).filter((base) => base.tasks.includes("causal_lm")).map((base) => (
                  <option key={base.model} value={base.model}>{base.name} ({base.parameters}, {base.license}{base.model.startsWith("builtin/") ? `, ${w.train.included}` : ""})</option>
                ))}
                {own.map((model) => <option key={model.id} value={model.id}>{model.family}/{model.name} {model.version}</option>)}
              </select>
            </Field>
            <fieldset>
              <legend>{w.train.method}</legend>
              <div class="row">
                {(["lora", "full", "prompt"] as const).map((method) => (
                  <label key={method} class="choice">
                    <input type="radio" name="method" checked={choice.method === method} onChange={() => change({ method })} />
                    <span><strong>{w.train.methods[method].title}</strong><span class="muted small">{w.train.methods[method].text}</span></span>
                  </label>
                ))}
              </div>
            </fieldset>
            <div class="row">
              <Field label={w.train.epochs} hint={w.train.epochsHint}>
                <input type="number" min={0.1} max={50} step={0.1} required value={choice.epochs} onInput={(event) => change({ epochs: Number(event.currentTarget.value) })} />
              </Field>
              <Field label={w.train.length} hint={w.train.lengthHint}>
                <input type="number" min={8} max={8192} required value={choice.length} onInput={(event) => change({ length: Number(event.currentTarget.value) })} />
              </Field>
            </div>
          </>
        ) : <Notice>{w.train.packSettings}</Notice>}
        {choice.from === "dataset" && (
          <div class="row">
            <Field label={w.train.search} hint={w.train.searchHints[choice.search]}>
              <select value={choice.search} onChange={(event) => change({ search: event.currentTarget.value as Choice["search"] })}>
                {(["none", "auto", "sweep"] as const).map((each) => <option key={each} value={each}>{w.train.searches[each]}</option>)}
              </select>
            </Field>
            {choice.search === "sweep" && <Field label={w.train.trials}><input type="number" min={2} max={64} required value={choice.trials} onInput={(event) => change({ trials: Number(event.currentTarget.value) })} /></Field>}
            {choice.search === "auto" && <Field label={w.train.minutes}><input type="number" min={1} max={1440} required value={choice.minutes} onInput={(event) => change({ minutes: Number(event.currentTarget.value) })} /></Field>}
          </div>
        )}
        <label class="check"><input type="checkbox" checked={choice.deploy} onChange={() => change({ deploy: !choice.deploy })} /><span>{w.train.deploy}</span></label>
        <ErrorBox error={bases.error} />
        <div class="actions"><Button onClick={onBack}>{w.train.back}</Button><Button type="submit" kind="primary">{w.train.next}</Button></div>
      </form>
    </Card>
  );
}

type Body = Parameters<typeof startJob>[0];

/** What the API is asked for. */
function bodyOf(choice: Choice): Body {
  const last = { evaluate: {}, register: {}, ...(choice.deploy ? { deploy: {} } : {}) };
  if (choice.from === "pack")
    return {
      recipe: {
        name: choice.name, domain: `${choice.pack}/${choice.model}`, collect: [{ source: "files", inputs: choice.inputs }],
        prepare: {}, train: {}, ...last,
      },
    } as Body;
  const train = { base_model: choice.base, method: choice.method, epochs: choice.epochs, sequence_length: choice.length };
  const rates = { learning_rate: choice.method === "full" ? "1e-5..3e-4" : "1e-4..1e-2" };
  const space = choice.method === "lora" ? { ...rates, rank: [8, 16, 32] } : rates;
  const search = choice.search === "sweep" ? { sweep: { space, trials: choice.trials } } : choice.search === "auto" ? { auto: { minutes: choice.minutes } } : {};
  return { recipe: { name: choice.name, dataset: choice.dataset, train, ...search, ...last } } as Body;
}

function PlanStep({ choice, onBack }: { choice: Choice; onBack: () => void }) {
  const w = words();
  const body = bodyOf(choice);
  const plan = useLoad((signal) => planTraining(body, signal), []);
  const start = useAction();
  const [once] = useState(newKey);
  const begin = () =>
    start.run(async () => {
      const job = await startJob(body, once);
      go("train", job.id);
    });
  return (
    <div class="stack">
      <Card title={w.train.plan} note={plan.data || plan.error ? undefined : w.train.planning}>
        <Show of={plan}>{(made) => <PlanView plan={made} />}</Show>
      </Card>
      <ErrorBox error={start.error} />
      <div class="actions">
        <Button onClick={onBack}>{w.train.back}</Button>
        <Button kind="primary" busy={start.busy} disabled={plan.data?.fits === false} onClick={begin}>{w.train.begin}</Button>
      </div>
    </div>
  );
}

function PlanView({ plan }: { plan: Plan }) {
  const w = words();
  const cut = plan.samples.cut_samples ?? 0;
  return (
    <div class="stack">
      <Notice kind={plan.fits ? "good" : "bad"}>{plan.fits ? w.train.fits : w.train.fitsNot}</Notice>
      <Facts of={[
        [w.train.memory, `${bytes(plan.bytes.total ?? 0)} / ${bytes(plan.bytes.available ?? 0)}`],
        [w.train.time, plan.seconds ? duration(plan.seconds) : w.train.unknownTime],
        [w.train.trained, `${number(plan.trainable_parameters)} / ${number(plan.parameters)}`],
        [w.train.tokens, plan.tokens ? number(plan.tokens) : "–"],
        [w.train.stepsTitle, plan.steps ? number(plan.steps) : "–"],
        [w.train.device, `${plan.device.toUpperCase()}, ${plan.precision}`],
        ...(plan.samples.samples ? [[w.train.cut, cut ? w.train.cutSome(number(cut), number(plan.samples.samples)) : w.train.cutNone] as const] : []),
      ]} />
      {[plan.refusal, plan.advice, ...(plan.notes ?? [])].filter(Boolean).map((text) => <Notice key={text} kind="warn"><span dir="auto">{text}</span></Notice>)}
    </div>
  );
}
