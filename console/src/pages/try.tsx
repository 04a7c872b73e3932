import { useEffect, useState } from "preact/hooks";
import { all, classify, listModels } from "../api/calls";
import { apiRoot } from "../api/client";
import type { Model } from "../api/shapes";
import { percent } from "../format";
import { useAction, useLoad } from "../load";
import { go, link, words } from "../state";
import { Bar, Button, Card, Copy, Empty, ErrorBox, Field, Head, LinkButton, Show } from "../ui/parts";
import { Talk } from "./talk";

const kindOf = (model: Model): "text" | "picture" | "chat" =>
  model.task === "text_classification" ? "text" : model.task === "image_classification" ? "picture" : "chat";
const titleOf = (model: Model): string => `${model.family}/${model.name} ${model.version}`;

/** Talk with a deployed model, with two side by side, or give a classifier a text or a picture. */
export function Try({ path }: { path: string[] }) {
  const w = words();
  const loaded = useLoad(async (signal) => (await all((cursor, limit) => listModels(cursor, limit, signal))).filter((model) => model.served_by), []);
  return (
    <>
      <Head title={w.try.title} intro={w.try.intro} />
      <Show of={loaded}>
        {(models) => {
          const model = models.find((each) => each.id === path[0]) ?? models[0];
          if (!model) return <Empty title={w.try.none}><p>{w.try.noneHint}</p><LinkButton href={link("models")}>{w.models.title}</LinkButton></Empty>;
          const kind = kindOf(model);
          const others = models.filter((each) => each.id !== model.id && kindOf(each) === kind);
          const other = others.find((each) => each.id === path[1]);
          const asked = other ? [model, other] : [model];
          return (
            <div class="stack">
              <div class="row">
                <Field label={w.try.model}>
                  <select value={model.id} onChange={(event) => go("try", event.currentTarget.value)}>
                    {models.map((each) => <option key={each.id} value={each.id}>{titleOf(each)}</option>)}
                  </select>
                </Field>
                {others.length > 0 && (
                  <Field label={w.try.beside}>
                    <select value={other?.id ?? ""} onChange={(event) => go("try", model.id, ...(event.currentTarget.value ? [event.currentTarget.value] : []))}>
                      <option value="">{w.try.alone}</option>
                      {others.map((each) => <option key={each.id} value={each.id}>{titleOf(each)}</option>)}
                    </select>
                  </Field>
                )}
              </div>
              {kind === "chat" ? <Talk models={asked} /> : <Classes models={asked} kind={kind} />}
              {asked.map((each) => <Calls key={each.id} model={each} kind={kind} named={asked.length > 1} />)}
            </div>
          );
        }}
      </Show>
    </>
  );
}

interface Decision {
  label: unknown;
  scores: Record<string, number>;
}

/** A text or a picture, and how each model sorts it. */
function Classes({ models, kind }: { models: readonly Model[]; kind: "text" | "picture" }) {
  const w = words();
  const [text, setText] = useState("");
  const [picture, setPicture] = useState<File | null>(null);
  const [address, setAddress] = useState("");
  const [decisions, setDecisions] = useState<readonly Decision[]>([]);
  const asking = useAction();
  useEffect(() => {
    if (!picture) return setAddress("");
    const made = URL.createObjectURL(picture);
    setAddress(made);
    return () => URL.revokeObjectURL(made);
  }, [picture]);
  const submit = (event: Event) => {
    event.preventDefault();
    asking.run(async () => {
      const body = picture ? { image: await base64Of(picture) } : { input: text };
      setDecisions(await Promise.all(models.map(async (model) => (await classify(model.id, body)).output as Decision)));
    });
  };
  return (
    <Card title={kind === "text" ? w.try.classes : w.try.picture}>
      <form class="form" onSubmit={submit}>
        {kind === "text"
          ? <Field label={w.try.text}><textarea dir="auto" required value={text} onInput={(event) => setText(event.currentTarget.value)} /></Field>
          : (
            <Field label={w.try.pictureFile} hint={w.try.pictureHint}>
              <input type="file" required accept="image/png,image/jpeg" onChange={(event) => { setPicture(event.currentTarget.files?.[0] ?? null); setDecisions([]); }} />
            </Field>
          )}
        {address && <img class="tried" src={address} alt={picture?.name ?? ""} />}
        <ErrorBox error={asking.error} />
        <div class="actions"><Button type="submit" kind="primary" busy={asking.busy}>{w.try.send}</Button></div>
      </form>
      {decisions.length > 0 && (
        <div class="answers">
          {decisions.map((decision, number) => (
            <div key={models[number]?.id} tabIndex={0} role="group" aria-label={models[number]?.name ?? ""}>
              {models.length > 1 && models[number] && <h3><bdi>{titleOf(models[number])}</bdi></h3>}
              <Labels label={decision.label} scores={decision.scores} />
            </div>
          ))}
        </div>
      )}
    </Card>
  );
}

/** A file's bytes in base64. */
export function base64Of(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onerror = () => reject(reader.error ?? new Error(file.name));
    reader.onload = () => resolve(String(reader.result).replace(/^data:[^,]*,/, ""));
    reader.readAsDataURL(file);
  });
}

/** A decision, and how sure the model is of each label. */
export function Labels({ label, scores }: { label: unknown; scores: Record<string, number> }) {
  const w = words();
  const rows = Object.entries(scores).sort((one, other) => other[1] - one[1]).slice(0, 12);
  return (
    <div class="scores" role="status">
      <p><strong>{w.data.roles.label}: <bdi>{label === null ? w.try.abstained : Array.isArray(label) ? label.join(", ") || "–" : String(label)}</bdi></strong></p>
      {rows.map(([name, score]) => (
        <div key={name} class="score"><bdi>{name}</bdi><span class="numeric">{percent(score)}</span><Bar share={score} label={name} /></div>
      ))}
    </div>
  );
}

/** The same as a call, to copy. The key is named, never shown. */
function Calls({ model, kind, named }: { model: Model; kind: "text" | "picture" | "chat"; named: boolean }) {
  const w = words();
  const url = `${apiRoot}/api/inference/${model.id}`;
  const body = kind === "chat" ? `{"messages": [{"role": "user", "content": "…"}]}` : `{"input": "…"}`;
  const key = `-H "Authorization: Bearer $SOLDIOM_KEY"`;
  const curl = kind === "picture" ? `curl ${url} ${key} -F image=@picture.png` : `curl ${url} \\\n  ${key} -H "Content-Type: application/json" \\\n  -d '${body}'`;
  const content = kind === "picture" ? `files={"image": open("picture.png", "rb")}` : `json=${body}`;
  const python = `import os, httpx\n\nanswer = httpx.post(\n    "${url}",\n    headers={"Authorization": f"Bearer {os.environ['SOLDIOM_KEY']}"},\n    ${content},\n    timeout=120,\n)\nprint(answer.json()["output"])`;
  return (
    <Card title={named ? `${w.try.call}: ${model.name} ${model.version}` : w.try.call}>
      <details><summary>curl</summary><Copy text={curl} label="curl" /></details>
      <details><summary>Python</summary><Copy text={python} label="Python" /></details>
    </Card>
  );
}
