/** What users said of a model's answers: a trainer accepts what the next version may learn from, and starts it. */
import { useState } from "preact/hooks";
import { acceptFeedback, listFeedback, rejectFeedback, retrainModel } from "../api/calls";
import type { Feedback } from "../api/shapes";
import { ago, isRecord } from "../format";
import { useAction, useOnce, usePages } from "../load";
import { go, words } from "../state";
import { Badge, Button, Card, ErrorBox, Field, More, Show } from "../ui/parts";

export function Review({ model }: { model: string }) {
  const w = words();
  const loaded = usePages((cursor, signal) => listFeedback(model, cursor, signal), (item) => item.id, [model]);
  const act = useAction();
  const once = useOnce();
  const items = loaded.data?.items ?? [];
  const accepted = items.filter((item) => item.status === "accepted").length;
  const retrain = () => act.run(async () => {
    const job = await retrainModel(model, once([model, accepted]));
    go("train", job.id);
  });
  return (
    <Card title={w.review.title} note={w.review.note} actions={accepted > 0 && <Button kind="primary" busy={act.busy} onClick={retrain}>{w.review.retrain(accepted)}</Button>}>
      <ErrorBox error={act.error} />
      <Show of={loaded}>
        {(page) => items.length === 0 ? <p class="muted">{w.review.none}</p> : (
          <>
            {items.map((item) => <Item key={`${item.id} ${item.status}`} item={item} onChange={loaded.reload} />)}
            <More page={page} onMore={loaded.more} />
          </>
        )}
      </Show>
    </Card>
  );
}

/** What was asked, in the words of the one who asked. */
function questionOf(question: Record<string, unknown>): string {
  const turns = Array.isArray(question.messages) ? question.messages.filter(isRecord) : [];
  const last = [...turns].reverse().find((turn) => turn.role === "user");
  return String(last?.content ?? question.input ?? question.text ?? question.prompt ?? "");
}

function Item({ item, onChange }: { item: Feedback; onChange: () => void }) {
  const w = words();
  const [correction, setCorrection] = useState(item.correction);
  const act = useAction();
  const accept = () => act.run(async () => {
    await acceptFeedback(item.id, correction.trim() === item.correction ? "" : correction.trim());
    onChange();
  });
  const reject = () => act.run(async () => {
    await rejectFeedback(item.id);
    onChange();
  });
  const isNew = item.status === "new";
  return (
    <div class="example">
      <p class="muted small">
        <Badge tone={item.rating === "up" ? "good" : "bad"}>{item.rating === "up" ? w.try.good : w.try.bad}</Badge>{" "}
        <Badge tone={item.status === "accepted" ? "good" : "quiet"}>{w.review.statuses[item.status] ?? item.status}</Badge> {ago(item.created_at)}
      </p>
      <p class="prompt"><strong>{w.evaluation.asked} </strong><bdi>{questionOf(item.question)}</bdi></p>
      <div class="answers">
        <div tabIndex={0} role="group" aria-label={w.review.answer}><h3>{w.review.answer}</h3><div dir="auto">{item.answer}</div></div>
        {!isNew && item.correction && <div tabIndex={0} role="group" aria-label={w.review.correction}><h3>{w.review.correction}</h3><div dir="auto">{item.correction}</div></div>}
      </div>
      {isNew && (
        <>
          <Field label={w.review.correction} hint={item.rating === "down" ? w.review.correctionNeeded : undefined}>
            <textarea dir="auto" rows={2} value={correction} onInput={(event) => setCorrection(event.currentTarget.value)} />
          </Field>
          <div class="actions">
            <Button small kind="primary" busy={act.busy} disabled={item.rating === "down" && !correction.trim()} onClick={accept}>{w.review.accept}</Button>
            <Button small busy={act.busy} onClick={reject}>{w.review.reject}</Button>
          </div>
        </>
      )}
      <ErrorBox error={act.error} />
    </div>
  );
}
