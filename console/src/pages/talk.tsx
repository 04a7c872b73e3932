/** A conversation with one model, or one question to two models side by side; with passages of an index where one is chosen. */
import { useRef, useState } from "preact/hooks";
import { all, chat, listDatasets, rateAnswer, searchPassages } from "../api/calls";
import type { Model, Passage } from "../api/shapes";
import { ago, metric, readable } from "../format";
import { useAction, useLoad } from "../load";
import { words } from "../state";
import { Button, Card, ErrorBox, Field } from "../ui/parts";

const PASSAGES = 3, PASSAGE_CHARACTERS = 700;

interface Reply {
  text: string;
  note?: string;
  error?: unknown;
  /** By which the answer is rated; null where it is not stored. */
  id?: string | null;
}

interface Exchange {
  question: string;
  /** What the models were asked: the question, and the passages where an index was chosen. */
  asked: string;
  sources: readonly Passage[];
  replies: readonly Reply[];
}

export function Talk({ models }: { models: readonly Model[] }) {
  const w = words();
  const [exchanges, setExchanges] = useState<readonly Exchange[]>([]);
  const [text, setText] = useState("");
  const [length, setLength] = useState(128);
  const [temperature, setTemperature] = useState(0);
  const [index, setIndex] = useState("");
  const indexes = useLoad((signal) => all((cursor, limit) => listDatasets("index", cursor, limit, signal)), []);
  const stop = useRef<AbortController | null>(null);
  const asking = useAction();

  /** One model's answer as it comes; throws what went wrong before its first word. */
  const answer = async (model: Model, number: number, exchange: Exchange, show: (reply: Reply) => void, signal: AbortSignal) => {
    const messages = [
      ...exchanges.flatMap((each) => [
        { role: "user" as const, content: each.asked }, { role: "assistant" as const, content: each.replies[number]?.text ?? "" },
      ]),
      { role: "user" as const, content: exchange.asked },
    ];
    let reply: Reply = { text: "" };
    const began = performance.now();
    try {
      for await (const event of chat(model.id, messages, length, temperature, signal)) {
        reply = { ...reply, text: reply.text + (event.text ?? ""), id: event.id ?? reply.id ?? null };
        if (event.usage) reply.note = w.try.took(event.usage.completion_tokens, metric((performance.now() - began) / 1000), event.finish_reason === "length");
        show(reply);
      }
    } catch (error) {
      if (signal.aborted) show({ ...reply, note: w.try.stopped });
      else if (models.length > 1 || reply.text) show({ ...reply, error });
      else throw error;
    }
  };

  const ask = () => {
    const question = text.trim();
    if (!question || asking.busy) return;
    const before = exchanges;
    const { signal } = (stop.current = new AbortController());
    setText("");
    asking.run(async () => {
      let now: Exchange = { question, asked: question, sources: [], replies: models.map(() => ({ text: "" })) };
      const show = (values: Partial<Exchange>) => {
        now = { ...now, ...values };
        setExchanges([...before, now]);
      };
      show({});
      try {
        if (index) {
          const { items } = await searchPassages({ query: question, k: PASSAGES, index }, signal);
          const listed = items.map((passage, number) => `[${number + 1}] ${passage.text.slice(0, PASSAGE_CHARACTERS)}`).join("\n\n");
          show({ sources: items, asked: w.try.withPassages(listed, question) });
        }
        await Promise.all(models.map((model, number) => answer(
          model, number, now, (reply) => show({ replies: now.replies.map((each, place) => (place === number ? reply : each)) }), signal,
        )));
      } catch (error) {
        setExchanges(before);
        setText(question);
        if (!signal.aborted) throw error;
      }
    });
  };
  const submit = (event: Event) => {
    event.preventDefault();
    ask();
  };
  return (
    <Card title={w.try.conversation} actions={exchanges.length > 0 && !asking.busy && <Button small onClick={() => { setExchanges([]); asking.clear(); }}>{w.try.clear}</Button>}>
      {exchanges.length === 0 && <p class="muted">{w.try.begin}</p>}
      <ol class={models.length > 1 ? "talk beside" : "talk"} aria-live="polite" aria-busy={asking.busy}>
        {exchanges.map((exchange, number) => (
          <ExchangeView key={number} exchange={exchange} models={models} waits={asking.busy && number === exchanges.length - 1} />
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
          {(indexes.data?.length ?? 0) > 0 && (
            <Field label={w.try.documents} hint={w.try.documentsHint}>
              <select value={index} onChange={(event) => setIndex(event.currentTarget.value)}>
                <option value="">{w.try.noDocuments}</option>
                {indexes.data?.map((each) => <option key={each.id} value={each.id}>{each.name}{w.comma}{ago(each.created_at)}</option>)}
              </select>
            </Field>
          )}
          <Field label={w.try.length}><input type="number" min={1} max={4096} value={length} onInput={(event) => setLength(Number(event.currentTarget.value) || 128)} /></Field>
          <Field label={w.try.temperature} hint={w.try.temperatureHint}><input type="number" min={0} max={2} step={0.1} value={temperature} onInput={(event) => setTemperature(Number(event.currentTarget.value) || 0)} /></Field>
        </div>
      </details>
    </Card>
  );
}

function ExchangeView({ exchange, models, waits }: { exchange: Exchange; models: readonly Model[]; waits: boolean }) {
  const w = words();
  const [open, setOpen] = useState<ReadonlySet<number>>(new Set());
  const toggle = (number: number, value: boolean) => {
    const next = new Set(open);
    if (value) next.add(number);
    else next.delete(number);
    setOpen(next);
  };
  return (
    <>
      <li class="turn user"><span class="by">{w.try.you}</span><span dir="auto">{exchange.question}</span></li>
      {exchange.replies.map((reply, number) => (
        <li key={number} class="turn assistant">
          <span class="by"><bdi>{models[number]?.name} {models.length > 1 && models[number]?.version}</bdi></span>
          <span dir="auto">{reply.text ? <Cited text={reply.text} sources={exchange.sources.length} onSource={(source) => toggle(source, true)} /> : reply.error ? "" : waits ? "…" : w.evaluation.nothing}</span>
          {reply.note && <span class="by">{reply.note}</span>}
          <ErrorBox error={reply.error} />
          {reply.id && <Rating key={reply.id} answer={reply.id} />}
        </li>
      ))}
      {exchange.sources.length > 0 && (
        <li class="sources">
          <span class="by">{w.try.sources}</span>
          {exchange.sources.map((source, number) => (
            <details key={source.id} open={open.has(number)} onToggle={(event) => toggle(number, event.currentTarget.open)}>
              <summary>[{number + 1}] <bdi>{nameOf(source)}</bdi></summary>
              <p class="prompt" dir="auto">{source.text}</p>
            </details>
          ))}
        </li>
      )}
    </>
  );
}

const nameOf = ({ metadata, id }: Passage): string =>
  readable([metadata.group, metadata.path].filter((each): each is string => typeof each === "string" && each !== "").join("/")) || id;

/** An answer whose [1], [2] lead to the passages. */
function Cited({ text, sources, onSource }: { text: string; sources: number; onSource: (source: number) => void }) {
  const w = words();
  if (!sources) return <>{text}</>;
  return (
    <>
      {text.split(/(\[\d{1,2}\])/).map((part) => {
        const number = /^\[(\d{1,2})\]$/.exec(part)?.[1];
        return number && Number(number) >= 1 && Number(number) <= sources
          ? <button type="button" class="cite" aria-label={`${w.try.sources}: ${number}`} onClick={() => onSource(Number(number) - 1)}>{part}</button> : part;
      })}
    </>
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
