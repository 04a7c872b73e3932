import { listDatasets, listFeedback, listJobs, listModels, readiness } from "../api/calls";
import type { Job } from "../api/shapes";
import { ago } from "../format";
import { useLoad } from "../load";
import { link, may, words } from "../state";
import { Badge, Bar, Card, Empty, Head, Show, StatusBadge } from "../ui/parts";

/** What runs, what needs attention, three things to do next. */
export function Home() {
  const w = words();
  const loaded = useLoad(
    async (signal) => {
      const [jobs, models, datasets, feedback] = await Promise.all([
        listJobs(undefined, undefined, 20, signal), listModels(undefined, 50, signal), listDatasets(undefined, undefined, 50, signal),
        may("trainer") ? listFeedback(undefined, undefined, signal, "new") : { items: [], next: null },
      ]);
      const rated = [...new Set(feedback.items.map((each) => each.model_id))];
      return { jobs: jobs.items, models: models.items, datasets: datasets.items, rated };
    },
    [],
    () => 5,
  );
  const services = useLoad(readiness, [], () => 30);
  return (
    <>
      <Head title={w.home.title} intro={w.home.intro} />
      <Show of={loaded}>
        {({ jobs, models, datasets, rated }) => {
          const running = jobs.filter((job) => job.status === "running" || job.status === "pending");
          const failed = jobs.filter((job) => job.status === "failed").slice(0, 4);
          const held = models.filter((model) => model.gate?.passed === false).slice(0, 4);
          const away = Object.entries(services.data?.services ?? {}).filter(([, service]) => service.state !== "running");
          const toReview = models.filter((model) => rated.includes(model.id)).slice(0, 4);
          const deployed = models.filter((model) => model.deployed);
          return (
            <div class="stack">
              <Next data={datasets.some((each) => each.stage === "documents")} prepared={datasets.some((each) => each.stage === "dataset")} deployed={deployed[0]?.id} />
              <div class="grid">
                <Card title={w.home.running}>
                  {running.length === 0 ? <p class="muted">{w.home.nothingRuns}</p> : <ul class="list">{running.map((job) => <Running key={job.id} job={job} />)}</ul>}
                </Card>
                <Card title={w.home.attention}>
                  {failed.length + held.length + away.length + toReview.length === 0 ? <p class="muted">{w.home.allWell}</p> : (
                    <ul class="list">
                      {away.map(([name, service]) => <li key={name}><span>{w.serviceNames[name] ?? name}</span><Badge tone="bad">{service.state}</Badge></li>)}
                      {failed.map((job) => (
                        <li key={job.id}>
                          <span><a href={link("train", job.id)}>{job.name}</a><span class="muted" dir="auto">{job.problem?.detail ?? job.error}</span></span>
                          <StatusBadge status={job.status} />
                        </li>
                      ))}
                      {toReview.map((model) => (
                        <li key={`rated ${model.id}`}><span><a href={link("models", model.id)}>{model.name}</a><span class="muted">{w.home.toReview}</span></span></li>
                      ))}
                      {held.map((model) => (
                        <li key={model.id}>
                          <span><a href={link("models", model.id)}>{model.name}</a><span class="muted">{w.home.gateHeld}</span></span>
                          <Badge tone="bad">{w.evaluation.notPassed}</Badge>
                        </li>
                      ))}
                    </ul>
                  )}
                </Card>
                <Card title={w.home.deployed}>
                  {deployed.length === 0 ? <p class="muted">{w.home.nothingDeployed}</p> : (
                    <ul class="list">
                      {deployed.slice(0, 5).map((model) => (
                        <li key={model.id}>
                          <span><a href={link("models", model.id)}>{model.name}</a><span class="muted">{w.models.version} {model.version}</span></span>
                          {may("user") && <a href={link("try", model.id)}>{w.models.try}</a>}
                        </li>
                      ))}
                    </ul>
                  )}
                </Card>
                <Card title={w.home.recent}>
                  {jobs.length === 0 ? <Empty title={w.home.noJobs} /> : (
                    <ul class="list">
                      {jobs.slice(0, 5).map((job) => (
                        <li key={job.id}>
                          <span><a href={link("train", job.id)}>{job.name}</a><span class="muted">{w.kinds[job.kind] ?? job.kind}{w.comma}{ago(job.created_at)}</span></span>
                          <StatusBadge status={job.status} />
                        </li>
                      ))}
                    </ul>
                  )}
                </Card>
              </div>
            </div>
          );
        }}
      </Show>
    </>
  );
}

const Running = ({ job }: { job: Job }) => (
  <li>
    <span><a href={link("train", job.id)}>{job.name}</a><span class="muted">{job.stage ? words().stages[job.stage] ?? job.stage : words().statuses[job.status]}</span></span>
    <Bar share={job.progress} label={job.name} />
  </li>
);

/** Three things to do, by what is there already. */
function Next({ data, prepared, deployed }: { data: boolean; prepared: boolean; deployed: string | undefined }) {
  const w = words();
  const all: { show: boolean; href: string; title: string; text: string }[] = [
    { show: may("trainer") && !data, href: link("data"), ...w.home.do.upload },
    { show: may("trainer") && data && !prepared, href: link("data"), ...w.home.do.prepare },
    { show: may("trainer") && prepared, href: link("train", "new"), ...w.home.do.train },
    { show: may("user") && deployed !== undefined, href: link("try", deployed ?? ""), ...w.home.do.try },
    { show: true, href: link("specialists"), ...w.home.do.specialists },
    { show: may("trainer") && data, href: link("data"), ...w.home.do.upload },
    { show: true, href: link("models"), ...w.home.do.models },
    { show: true, href: link("monitor"), ...w.home.do.monitor },
  ];
  return (
    <nav class="todos" aria-label={w.home.next}>
      {all.filter((each) => each.show).slice(0, 3).map((each) => (
        <a key={each.title} class="card todo" href={each.href}><strong>{each.title}</strong><span class="muted">{each.text}</span></a>
      ))}
    </nav>
  );
}
