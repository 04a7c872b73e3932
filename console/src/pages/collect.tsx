/** Data from elsewhere: GitHub, the Hugging Face Hub, a database, an address. Each form starts one job. */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { collectDatabase, collectGithub, collectHub, collectUrl } from "../api/calls";
import type { Job } from "../api/shapes";
import { useAction, useOnce } from "../load";
import type { Words } from "../i18n/en";
import { go, may, words } from "../state";
import { Button, Card, ErrorBox, Field, Notice } from "../ui/parts";

const PLACES = ["github", "hub", "database", "url"] as const;
type Values = Readonly<Record<string, string>>;

const DATABASES = { postgresql: "PostgreSQL", mysql: "MySQL", mariadb: "MariaDB" };
const START: Record<(typeof PLACES)[number], Values> = {
  github: { topics: "", languages: "", stars: "1000", days: "183", most: "20" },
  hub: { kind: "datasets", tasks: "", downloads: "10000", likes: "100", most: "10", data: "yes" },
  database: { system: "postgresql", host: "", port: "", database: "", user: "", password: "", tables: "", query: "", rows: "", private: "" },
  url: { url: "", records: "", next: "", header: "", secret: "", pages: "100", private: "" },
};

const listed = (text: string | undefined): string[] => (text ?? "").split(/[,،\n]/).map((each) => each.trim()).filter(Boolean);
const count = (text: string | undefined): number | null => (text ? Number(text) : null);

/** The address of a database in one line; its parts may hold any character. */
export function databaseUrl(values: Values): string {
  const part = (name: string) => encodeURIComponent((values[name] ?? "").trim());
  const user = part("user") && `${part("user")}${values.password ? `:${encodeURIComponent(values.password)}` : ""}@`;
  return `${values.system}://${user}${(values.host ?? "").trim()}${values.port ? `:${values.port}` : ""}/${part("database")}`;
}

/** What the API is asked for. */
function start(place: (typeof PLACES)[number], values: Values, once: (asked: unknown) => string): Promise<Job> {
  if (place === "github") {
    const body = {
      topics: listed(values.topics), languages: listed(values.languages), min_stars: count(values.stars) ?? 0,
      pushed_within_days: count(values.days) ?? 183, max_repositories: count(values.most),
    };
    return collectGithub(body as Parameters<typeof collectGithub>[0], once(body));
  }
  if (place === "hub") {
    const body = {
      kind: values.kind, tasks: listed(values.tasks), min_downloads: count(values.downloads) ?? 0, min_likes: count(values.likes) ?? 0,
      limit: count(values.most), data: values.kind === "datasets" && values.data === "yes",
    };
    return collectHub(body as Parameters<typeof collectHub>[0], once(body));
  }
  const inside = values.private === "yes" ? { private: true } : {};
  if (place === "database") {
    const body = {
      url: databaseUrl(values), ...(values.query ? { query: values.query } : { tables: listed(values.tables) }),
      ...(values.rows ? { max_rows: count(values.rows) } : {}), ...inside,
    };
    return collectDatabase(body as Parameters<typeof collectDatabase>[0], once(body));
  }
  const body = {
    url: values.url, records: values.records, next: values.next, max_pages: count(values.pages) ?? 100,
    headers: values.header ? { [values.header.trim()]: values.secret ?? "" } : {}, ...inside,
  };
  return collectUrl(body as Parameters<typeof collectUrl>[0], once(body));
}

export function Collect() {
  const w = words();
  const [place, setPlace] = useState<(typeof PLACES)[number] | null>(null);
  return (
    <Card title={w.collect.title} note={w.collect.note}>
      <div class="tabs" role="group" aria-label={w.collect.title}>
        {PLACES.map((each) => <Button key={each} aria-pressed={place === each} onClick={() => setPlace(place === each ? null : each)}>{w.collect.places[each]}</Button>)}
      </div>
      {place && <PlaceForm key={place} place={place} />}
    </Card>
  );
}

function PlaceForm({ place }: { place: (typeof PLACES)[number] }) {
  const w = words();
  const [values, setValues] = useState<Values>(START[place]);
  const act = useAction();
  const once = useOnce();
  const submit = (event: Event) => {
    event.preventDefault();
    act.run(async () => {
      const job = await start(place, values, once);
      go("train", job.id);
    });
  };
  const set = (name: string, value: string) => setValues((before) => ({ ...before, [name]: value }));
  const fields = { values, set };
  return (
    <form class="form" onSubmit={submit} autocomplete="off">
      <p class="muted">{w.collect.about[place]}</p>
      {place === "github" && (
        <Row>
          <Line {...fields} name="topics" placeholder="law, contracts" /><Line {...fields} name="languages" placeholder="Python" />
          <Line {...fields} name="stars" type="number" min={0} /><Line {...fields} name="days" type="number" min={1} /><Line {...fields} name="most" type="number" min={1} />
        </Row>
      )}
      {place === "hub" && (
        <>
          <Row>
            <Field label={w.collect.fields.kind}>
              <select value={values.kind ?? ""} onChange={(event) => set("kind", event.currentTarget.value)}>
                <option value="datasets">{w.collect.kinds.datasets}</option><option value="models">{w.collect.kinds.models}</option>
              </select>
            </Field>
            <Line {...fields} name="tasks" placeholder="summarization" /><Line {...fields} name="downloads" type="number" min={0} />
            <Line {...fields} name="likes" type="number" min={0} /><Line {...fields} name="most" type="number" min={1} />
          </Row>
          {values.kind === "datasets" && <Check {...fields} name="data" />}
        </>
      )}
      {place === "database" && (
        <>
          <Row>
            <Field label={w.collect.fields.system}>
              <select value={values.system ?? ""} onChange={(event) => set("system", event.currentTarget.value)}>
                {Object.entries(DATABASES).map(([value, title]) => <option key={value} value={value}>{title}</option>)}
              </select>
            </Field>
            <Line {...fields} name="host" required placeholder="db.example.org" /><Line {...fields} name="port" type="number" min={1} optional /><Line {...fields} name="database" required />
            <Line {...fields} name="user" /><Line {...fields} name="password" type="password" />
          </Row>
          <Row><Line {...fields} name="tables" optional placeholder="tickets, answers" /><Line {...fields} name="rows" type="number" min={1} optional /></Row>
          <Field label={`${w.collect.fields.query} (${w.specialists.optional})`} hint={w.collect.hints.query}>
            <textarea class="mono" dir="ltr" rows={3} value={values.query} onInput={(event) => set("query", event.currentTarget.value)} />
          </Field>
        </>
      )}
      {place === "url" && (
        <>
          <Line {...fields} name="url" type="url" required placeholder="https://example.org/data.json" />
          <Row>
            <Line {...fields} name="records" optional placeholder="data.items" /><Line {...fields} name="next" optional placeholder="links.next" />
            <Line {...fields} name="header" optional placeholder="Authorization" /><Line {...fields} name="secret" type="password" optional /><Line {...fields} name="pages" type="number" min={1} />
          </Row>
        </>
      )}
      {(place === "database" || place === "url") && may("admin") && <Check {...fields} name="private" />}
      {(place === "database" || place === "url") && <Notice>{w.collect.sealed}</Notice>}
      <ErrorBox error={act.error} />
      <div class="actions"><Button type="submit" kind="primary" busy={act.busy}>{w.collect.begin}</Button></div>
    </form>
  );
}

const Row = ({ children }: { children: ComponentChildren }) => <div class="row">{children}</div>;

interface Fields {
  values: Values;
  set: (name: string, value: string) => void;
}

function Line({ values, set, name, type = "text", optional, ...rest }: Fields & {
  name: keyof Words["collect"]["fields"]; type?: "text" | "number" | "password" | "url"; optional?: boolean; required?: boolean; placeholder?: string; min?: number;
}) {
  const w = words();
  const label = w.collect.fields[name];
  return (
    <Field label={optional ? `${label} (${w.specialists.optional})` : label} hint={w.collect.hints[name]}>
      <input {...({ ...rest, type } as { type: "text" })} dir="ltr" autocomplete={type === "password" ? "new-password" : "off"} spellcheck={false} value={values[name]} onInput={(event) => set(name, event.currentTarget.value)} />
    </Field>
  );
}

const Check = ({ values, set, name }: Fields & { name: keyof Words["collect"]["fields"] }) => (
  <label class="check">
    <input type="checkbox" checked={values[name] === "yes"} onChange={() => set(name, values[name] === "yes" ? "" : "yes")} />
    <span>{words().collect.fields[name]}</span>
  </label>
);
