import { useState } from "preact/hooks";
import { signInWays } from "../api/calls";
import { Problem } from "../api/client";
import { Preferences } from "../app";
import { useAction, useLoad } from "../load";
import { canLogIn, startLogin } from "../login";
import { enter, resume, useShared, words } from "../state";
import { Button, ErrorBox, Field, Notice } from "../ui/parts";

/** A key is all that is asked for, or a login where the API takes those of a provider. */
export function SignIn() {
  const [key, setKey] = useState("");
  const { notice, said } = useShared();
  const login = useLoad(signInWays, []).data?.login;
  const leaving = useAction();
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
        {notice === "login" && !action.error && <Notice kind="warn"><p>{w.signIn.loginFailed}</p>{said && <p><bdi>{said}</bdi></p>}</Notice>}
        {login && canLogIn() && (
          <Button kind="primary" busy={leaving.busy} onClick={() => leaving.run(() => startLogin(login))}>{w.signIn.login(new URL(login.authorization_endpoint).host)}</Button>
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
