import { listModels } from "../api/calls";
import { ago } from "../format";
import { usePages } from "../load";
import { link, may, words } from "../state";
import { Badge, Card, Empty, Head, LinkButton, More, Show, Table } from "../ui/parts";

export function Models() {
  const w = words();
  const loaded = usePages((cursor, signal) => listModels(cursor, 100, signal), (model) => model.id, [], () => 15);
  return (
    <>
      <Head title={w.models.title} intro={w.models.intro}>
        {may("trainer") && <LinkButton kind="primary" href={link("train", "new")}>{w.train.start}</LinkButton>}
      </Head>
      <Card>
        <Show of={loaded}>
          {(page) => page.items.length === 0 ? <Empty title={w.models.none}><p>{w.models.noneHint}</p></Empty> : (
            <>
              <Table label={w.models.title} rows={page.items} id={(model) => model.id} columns={[
                { title: w.data.name, cell: (model) => <a href={link("models", model.id)}><bdi>{model.family}/{model.name}</bdi></a> },
                { title: w.models.version, cell: (model) => String(model.version), numeric: true },
                { title: w.models.task, cell: (model) => (model.task ? w.tasks[model.task] ?? model.task : "–") },
                {
                  title: w.models.gate,
                  cell: (model) => model.gate && typeof model.gate.passed === "boolean"
                    ? <Badge tone={model.gate.passed ? "good" : "bad"}>{model.gate.passed ? w.evaluation.passed : w.evaluation.notPassed}</Badge> : "–",
                },
                { title: w.models.serving, cell: (model) => (model.deployed ? <Badge tone="deployed">{w.models.deployed}</Badge> : "–") },
                { title: w.data.when, cell: (model) => <span class="nowrap">{ago(model.created_at)}</span> },
              ]} />
              <More page={page} onMore={loaded.more} />
            </>
          )}
        </Show>
      </Card>
    </>
  );
}
