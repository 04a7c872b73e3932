import { useState } from "preact/hooks";
import { deployModel, modelMetrics, promoteModel, rollBack, shareModel, showEvaluation, showLineage, showModel, undeployModel } from "../api/calls";
import type { Lineage, ModelDetails } from "../api/shapes";
import { moment, readable } from "../format";
import { useAction, useLoad, useOnce } from "../load";
import { go, link, may, words } from "../state";
import { Badge, Button, Card, Confirm, ErrorBox, Facts, Field, Head, LinkButton, Notice, Show, Table } from "../ui/parts";
import { LineageGraph } from "../ui/lineage";
import { Markdown } from "../ui/markdown";
import { Sharing } from "../ui/sharing";
import { Review } from "./review";
import { Examples, ScoresView, Slices } from "./scores";

/** One version: its scores, its card, where it comes from, its endpoint. */
export function Model({ path }: { path: string[] }) {
  const id = path[0] ?? "";
  const loaded = useLoad((signal) => showModel(id, signal), [id], () => 10);
  return <Show of={loaded}>{(model) => <ModelView model={model} onChange={loaded.reload} />}</Show>;
}

function ModelView({ model, onChange }: { model: ModelDetails; onChange: () => void }) {
  const w = words();
  const metrics = useLoad((signal) => modelMetrics(model.id, signal), [model.id]);
  const act = useAction();
  const once = useOnce();
  const lineage = useLoad((signal) => showLineage(model.id, signal), [model.id]);
  const evaluation = useLoad((signal) => (model.scores_artifact ? showEvaluation(model.scores_artifact, signal) : Promise.resolve(undefined)), [model.scores_artifact]);
  const deploy = (replicas: number) => act.run(async () => {
    const job = await deployModel(model.id, replicas, once([model.id, replicas]));
    go("train", job.id);
  });
  const undeploy = () => act.run(async () => {
    await undeployModel(model.id);
    onChange();
  });
  const back = () => act.run(async () => {
    const former = await rollBack(model.id);
    go("models", former.id);
  });
  const promote = () => act.run(async () => {
    await promoteModel(model.id);
    onChange();
  });
  return (
    <>
      <a class="crumb" href={link("models")}>{w.models.title}</a>
      <Head title={`${model.family}/${model.name}`} intro={`${w.models.version} ${model.version}${w.comma}${moment(model.created_at)}`}>
        {model.deployed ? <Badge tone="deployed">{w.models.deployed}</Badge> : null}
        {model.served_by && may("user") && <LinkButton kind="primary" href={link("try", model.id)}>{w.models.try}</LinkButton>}
        {may("trainer") && !model.deployed && <Button kind="primary" busy={act.busy} onClick={() => deploy(1)}>{w.models.deploy}</Button>}
        {may("trainer") && model.deployed && <Confirm label={w.models.undeploy} question={w.models.undeployQuestion} onYes={undeploy} />}
        {may("trainer") && model.gate?.promoted === true && model.versions.length > 1 && <Confirm kind="plain" label={w.models.rollBack} question={w.models.rollBackQuestion} onYes={back} />}
        {may("trainer") && model.gate && <Confirm kind="plain" label={w.models.promote} question={w.models.promoteQuestion} onYes={promote} />}
        {may("trainer") && <Sharing of={model} set={(shared) => shareModel(model.id, shared)} onChange={onChange} />}
      </Head>
      <div class="stack">
        <ErrorBox error={act.error} />
        {model.deployment?.error && <Notice kind="bad"><span dir="auto">{model.deployment.error}</span></Notice>}
        <Card title={w.models.about}>
          <Facts of={[
            [w.models.task, model.task ? w.tasks[model.task] ?? model.task : "–"],
            [w.train.base, <bdi>{model.base_model || "–"}</bdi>],
            [w.models.license, <bdi>{model.license ?? "–"}</bdi>],
            [w.models.dataset, model.dataset_id ? <a href={link("data", model.dataset_id)}>{w.models.seeDataset}</a> : "–"],
            [w.models.training, model.training_job_id ? <a href={link("train", model.training_job_id)}>{w.models.seeTraining}</a> : "–"],
            [w.data.id, <code>{model.id}</code>],
          ]} />
        </Card>
        {model.performance_metrics.tuned && <ScoresView scores={{ ...model.performance_metrics, gate: model.gate }} />}
        {(evaluation.data?.slices?.length ?? 0) > 0 && <Slices slices={evaluation.data?.slices ?? []} />}
        {(metrics.data?.examples.length ?? 0) > 0 && <Examples examples={metrics.data?.examples ?? []} />}
        {lineage.data && <Card title={w.lineage.title} note={w.lineage.note}><LineageGraph lineage={lineage.data} model={model} /></Card>}
        {lineage.data && lineage.data.ingredients.length > 0 && <Ingredients of={lineage.data.ingredients} />}
        {model.notices.length > 0 && <Card title={w.models.notices}><ul>{model.notices.map((text) => <li key={text} dir="auto">{text}</li>)}</ul></Card>}
        {may("trainer") && model.deployed && <Scale key={model.deployment?.replicas} replicas={model.deployment?.replicas ?? 1} busy={act.busy} onScale={deploy} />}
        {model.card && (
          <Card title={w.models.card}>
            <div class="scroll" role="region" aria-label={w.models.card} tabIndex={0}><Markdown text={model.card} /></div>
          </Card>
        )}
        {may("trainer") && model.family !== "base" && <Review model={model.id} />}
        {model.versions.length > 1 && (
          <Card title={w.models.versions}>
            <ul class="list">
              {model.versions.map((each) => (
                <li key={each.id}><a href={link("models", each.id)} aria-current={each.id === model.id ? "true" : undefined}>{w.models.version} {each.version}</a>{each.deployed && <Badge tone="deployed">{w.models.deployed}</Badge>}</li>
              ))}
            </ul>
          </Card>
        )}
      </div>
    </>
  );
}

/** How many processes serve the model; another number is one more deployment, while the former goes on serving. */
function Scale({ replicas, busy, onScale }: { replicas: number; busy: boolean; onScale: (replicas: number) => void }) {
  const w = words();
  const [wanted, setWanted] = useState(replicas);
  const submit = (event: Event) => {
    event.preventDefault();
    onScale(wanted);
  };
  return (
    <Card title={w.models.scale} note={w.models.scaleNote}>
      <form class="row" onSubmit={submit}>
        <Field label={w.models.replicas} hint={w.models.replicasNow(String(replicas))}>
          <input type="number" min={1} max={64} required value={wanted} onInput={(event) => setWanted(Number(event.currentTarget.value))} />
        </Field>
        <div class="field"><span class="label" aria-hidden="true">&nbsp;</span><Button type="submit" busy={busy} disabled={wanted === replicas}>{w.models.setReplicas}</Button></div>
      </form>
    </Card>
  );
}

/** What the model was made of, by licence. */
function Ingredients({ of }: { of: Lineage["ingredients"] }) {
  const w = words();
  return (
    <Card title={w.models.ingredients}>
      <Table label={w.models.ingredients} rows={of.map((each, number) => ({ ...each, number }))} id={(row) => String(row.number)} columns={[
        { title: w.data.kind, cell: (row) => w.models.parts[row.part] ?? row.part },
        { title: w.models.license, cell: (row) => <bdi>{row.license || w.models.unknownLicense}</bdi> },
        { title: w.models.of, cell: (row) => <bdi>{readable(row.subject)}</bdi> },
        { title: w.data.stages.documents, cell: (row) => (row.documents ? String(row.documents) : "–"), numeric: true },
      ]} />
    </Card>
  );
}
