import { useRef, useState } from "preact/hooks";
import { chat, classify, listModels, rateAnswer } from "../api/calls";
import { apiRoot } from "../api/client";
import type { Model } from "../api/shapes";
import { metric, percent } from "../format";
import { useAction, useLoad } from "../load";
import { go, link, words } from "../state";
import { Bar, Button, Card, Copy, Empty, ErrorBox, Field, Head, LinkButton, Show } from "../ui/parts";

/** Talk with a deployed model, or give a classifier a text. */
export function Try({ path }: { path: string[] }) {
  const w = words();
  const loaded = useLoad(async (signal) => (await listModels(undefined, 200, signal)).items.filter((model) => model.deployed), []);
  return (
    <>
      <Head title={w.try.title} intro={w.try.intro} />
      <Show of={loaded}>
        {(models) => {
          const model = models.find((each) => each.id === path[0]) ?? models[0];
          if (!model) return <Empty title={w.try.none}><p>{w.try.noneHint}</p><LinkButton href={link("models")}>{w.models.title}</LinkButton></Empty>;
          return (
            <div class="stack">
              <Field label={w.try.model}>
                <select value={model.id} onChange={(event) => go("try", event.currentTarget.value)}>
                  {models.map((each) => <option key={each.id} value={each.id}>{each.family}/{each.name} {each.version}</option>)}
                </select>
              </Field>
              {model.task === "text_classification" ? <Classes key={model.id} model={model} />
                : model.task === "image_classification" ? <Empty title={w.try.pictures} /> : <Talk key={model.id} model={model} />}
              <Calls model={model} />
            </div>
          );
        }}
      </Show>
    </>
  );
}

interface Turn {
  role: "user" | "assistant";
  content: string;
  note?: string;
  /** By which the answer is rated; null where it is not stored. */
  id?: string | null;
}

function Talk({ model }: { model: Model }) {
  const w = words();
  const [turns, setTurns] = useState<Turn[]>([]);
  const [text, setText] = useState("");
  const [length, setLength] = useState(128);
  const [temperature, setTemperature] = useState(0);
  const stop = useRef<AbortController | null>(null);
  const asking = useAction();
  const ask = () => {
    const question = text.trim();
    if (!question || asking.busy) return;
    const before: Turn[] = [...turns, { role: "user", content: question }];
    setTurns([...before, { role: "assistant", content: "" }]);
    setText("");
    stop.current = new AbortController();
    const { signal } = stop.current;
    asking.run(async () => {
      let answer = "", note = "";
      let id: string | null = null;
      const show = () => setTurns([...before, { role: "assistant", content: answer, note, id }]);
      const began = performance.now();
      try {
        const messages = before.map(({ role, content }) => ({ role, content }));
        for await (const event of chat(model.id, messages, length, temperature, signal)) {
          answer += event.text ?? "";
          id = event.id ?? id;
          if (event.usage) {
            const seconds = (performance.now() - began) / 1000;
            note = w.try.took(event.usage.completion_tokens, metric(seconds), event.finish_reason === "length");
          }
          show();
        }
      } catch (error) {
        if (!signal.aborted) {
          if (!answer) setTurns(turns);
          setText(question);
          throw error;
        }
        note = w.try.stopped;
        show();
      }
    });
  };
  const submit = (event: Event) => {
    event.preventDefault();
    ask();
  };
  return (
    <Card title={w.try.conversation} actions={turns.length > 0 && !asking.busy && <Button small onClick={() => { setTurns([]); asking.clear(); }}>{w.try.clear}</Button>}>
      {turns.length === 0 && <p class="muted">{w.try.begin}</p>}
      <ol class="talk" aria-live="polite" aria-busy={asking.busy}>
        {turns.map((turn, number) => (
          <li key={number} class={`turn ${turn.role}`}>
            <span class="by">{turn.role === "user" ? w.try.you : <bdi>{model.name}</bdi>}</span>
            <span dir="auto">{turn.content || (asking.busy && number === turns.length - 1 ? "…" : w.evaluation.nothing)}</span>
            {turn.note && <span class="by">{turn.note}</span>}
            {turn.id && <Rating key={turn.id} answer={turn.id} />}
          </li>
        ))}
      </ol>
      <ErrorBox error={asking.error} />
      <form class="compose" onSubmit={submit}>
        <Field label={w.try.ask}>
          <textarea dir="auto" value={text} onInput={(event) => setText(event.currentTarget.value)} onKeyDown={(event) => {
            if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
              event.preventDefault();
              ask();
            }
          }} />
        </Field>
        {asking.busy ? <Button onClick={() => stop.current?.abort()}>{w.try.stop}</Button> : <Button type="submit" kind="primary">{w.try.send}</Button>}
      </form>
      <details>
        <summary>{w.try.settings}</summary>
        <div class="row">
          <Field label={w.try.length}><input type="number" min={1} max={4096} value={length} onInput={(event) => setLength(Number(event.currentTarget.value) || 128)} /></Field>
          <Field label={w.try.temperature} hint={w.try.temperatureHint}><input type="number" min={0} max={2} step={0.1} value={temperature} onInput={(event) => setTemperature(Number(event.currentTarget.value) || 0)} /></Field>
        </div>
      </details>
    </Card>
  );
}

/** Whether an answer is good, and what it should have been: documents for the next round, once a trainer accepts them. */
function Rating({ answer }: { answer: string }) {
  const w = words();
  const [rated, setRated] = useState<"up" | "down" | null>(null);
  const [correction, setCorrection] = useState("");
  const [sent, setSent] = useState(false);
  const act = useAction();
  const rate = (rating: "up" | "down") => act.run(async () => {
    await rateAnswer(answer, rating, "");
    setRated(rating);
  });
  const correct = (event: Event) => {
    event.preventDefault();
    act.run(async () => {
      await rateAnswer(answer, "down", correction.trim());
      setSent(true);
    });
  };
  return (
    <>
      <span class="rate" role="group" aria-label={w.try.rate}>
        <Button small aria-pressed={rated === "up"} disabled={act.busy} onClick={() => rate("up")}>{w.try.good}</Button>
        <Button small aria-pressed={rated === "down"} disabled={act.busy} onClick={() => rate("down")}>{w.try.bad}</Button>
        {rated && <span class="muted small" role="status">{sent ? w.try.corrected : w.try.rated}</span>}
      </span>
      <ErrorBox error={act.error} />
      {rated === "down" && !sent && (
        <form class="form" onSubmit={correct}>
          <Field label={w.try.correction} hint={w.try.correctionHint}>
            <textarea dir="auto" required rows={3} value={correction} onInput={(event) => setCorrection(event.currentTarget.value)} />
          </Field>
          <div class="actions"><Button type="submit" small busy={act.busy}>{w.try.correct}</Button></div>
        </form>
      )}
    </>
  );
}

function Classes({ model }: { model: Model }) {
  const w = words();
  const [text, setText] = useState("");
  const [output, setOutput] = useState<{ label: unknown; scores: Record<string, number> } | null>(null);
  const asking = useAction();
  const submit = (event: Event) => {
    event.preventDefault();
    asking.run(async () => setOutput((await classify(model.id, text)).output as { label: unknown; scores: Record<string, number> }));
  };
  return (
    <Card title={w.try.classes}>
      <form class="form" onSubmit={submit}>
        <Field label={w.try.text}><textarea dir="auto" required value={text} onInput={(event) => setText(event.currentTarget.value)} /></Field>
        <ErrorBox error={asking.error} />
        <div class="actions"><Button type="submit" kind="primary" busy={asking.busy}>{w.try.send}</Button></div>
      </form>
      {output && <Labels label={output.label} scores={output.scores} />}
    </Card>
  );
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
function Calls({ model }: { model: Model }) {
  const w = words();
  const isChat = model.task !== "text_classification";
  const body = isChat ? `{"messages": [{"role": "user", "content": "…"}]}` : `{"input": "…"}`;
  const curl = `curl ${apiRoot}/api/inference/${model.id} \\\n  -H "Authorization: Bearer $SOLDIOM_KEY" -H "Content-Type: application/json" \\\n  -d '${body}'`;
  const python = `import os, httpx\n\nanswer = httpx.post(\n    "${apiRoot}/api/inference/${model.id}",\n    headers={"Authorization": f"Bearer {os.environ['SOLDIOM_KEY']}"},\n    json=${body},\n    timeout=120,\n)\nprint(answer.json()["output"])`;
  return (
    <Card title={w.try.call}>
      <details><summary>curl</summary><Copy text={curl} label="curl" /></details>
      <details><summary>Python</summary><Copy text={python} label="Python" /></details>
    </Card>
  );
}
