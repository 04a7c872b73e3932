import { useState } from "preact/hooks";
import { Problem } from "../api/client";
import { Preferences } from "../app";
import { useAction } from "../load";
import { enter, resume, useShared, words } from "../state";
import { Button, ErrorBox, Field, Notice } from "../ui/parts";

/** A key is all that is asked for. */
export function SignIn() {
  const [key, setKey] = useState("");
  const { notice } = useShared();
  const action = useAction();
  const w = words();
  const refused = action.error instanceof Problem && action.error.status === 401;
  const submit = (event: Event) => {
    event.preventDefault();
    if (key.trim()) action.run(() => enter(key.trim()));
  };
  return (
    <main class="alone" id="main" tabIndex={-1}>
      <form class="card sign-in" onSubmit={submit}>
        <p class="logo"><img src={`${import.meta.env.BASE_URL}icon.svg`} alt="" width="36" height="36" />Soldiom</p>
        <h1>{w.signIn.title}</h1>
        <p class="muted">{w.signIn.intro}</p>
        {notice === "ended" && !action.error && <Notice kind="warn">{w.signIn.ended}</Notice>}
        {notice === "unreachable" && !action.error && (
          <Notice kind="warn"><p>{w.errors.unreachable} {w.signIn.kept}</p><div class="actions"><Button small onClick={() => void resume()}>{w.again}</Button></div></Notice>
        )}
        <Field label={w.signIn.key} hint={w.signIn.hint}>
          <input type="password" name="key" autocomplete="off" spellcheck={false} dir="ltr" required value={key} placeholder="sld_…"
            onInput={(event) => setKey(event.currentTarget.value)} />
        </Field>
        {refused ? <div class="notice bad" role="alert">{w.signIn.refused}</div> : <ErrorBox error={action.error} />}
        <Button type="submit" kind="primary" busy={action.busy}>{w.signIn.enter}</Button>
        <p class="muted small">{w.signIn.privacy}</p>
        <Preferences />
      </form>
    </main>
  );
}
