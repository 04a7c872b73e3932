import { deployModel, modelMetrics, promoteModel, showModel, undeployModel } from "../api/calls";
import type { ModelDetails } from "../api/shapes";
import { moment } from "../format";
import { newKey, useAction, useLoad } from "../load";
import { go, link, may, words } from "../state";
import { Badge, Button, Card, Confirm, ErrorBox, Facts, Head, LinkButton, Notice, Show } from "../ui/parts";
import { Markdown } from "../ui/markdown";
import { Examples, ScoresView } from "./scores";

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
  const deploy = () => act.run(async () => {
    const job = await deployModel(model.id, newKey());
    go("train", job.id);
  });
  const undeploy = () => act.run(async () => {
    await undeployModel(model.id);
    onChange();
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
        {model.deployed && may("user") && <LinkButton kind="primary" href={link("try", model.id)}>{w.models.try}</LinkButton>}
        {may("trainer") && !model.deployed && <Button kind="primary" busy={act.busy} onClick={deploy}>{w.models.deploy}</Button>}
        {may("trainer") && model.deployed && <Confirm label={w.models.undeploy} question={w.models.undeployQuestion} onYes={undeploy} />}
        {may("trainer") && model.gate && <Confirm kind="plain" label={w.models.promote} question={w.models.promoteQuestion} onYes={promote} />}
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
        {model.notices.length > 0 && <Card title={w.models.notices}><ul>{model.notices.map((text) => <li key={text} dir="auto">{text}</li>)}</ul></Card>}
        {model.performance_metrics.tuned && <ScoresView scores={{ ...model.performance_metrics, gate: model.gate }} />}
        {(metrics.data?.examples.length ?? 0) > 0 && <Examples examples={metrics.data?.examples ?? []} />}
        {model.card && (
          <Card title={w.models.card}>
            <div class="scroll" role="region" aria-label={w.models.card} tabIndex={0}><Markdown text={model.card} /></div>
          </Card>
        )}
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
