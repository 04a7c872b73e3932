import { useState } from "preact/hooks";
import { createKey, listAudit, listKeys, revokeKey, verifyAudit } from "../api/calls";
import type { AuditRow, Key, Role } from "../api/shapes";
import { ago, moment } from "../format";
import { useAction, useLoad } from "../load";
import { useShared, words } from "../state";
import { Badge, Button, Card, Confirm, Copy, ErrorBox, Field, Head, More, Notice, Show, Table } from "../ui/parts";

/** Keys and the audit trail. */
export function Access() {
  const w = words();
  return (
    <>
      <Head title={w.access.title} intro={w.access.intro} />
      <div class="stack"><Keys /><Audit /></div>
    </>
  );
}

function Keys() {
  const w = words();
  const { caller } = useShared();
  const keys = useLoad((signal) => listKeys(undefined, signal), []);
  const [name, setName] = useState("");
  const [role, setRole] = useState<Role>("user");
  const [made, setMade] = useState<string | null>(null);
  const act = useAction();
  const create = (event: Event) => {
    event.preventDefault();
    act.run(async () => {
      setMade((await createKey(name.trim(), role)).key);
      setName("");
      keys.reload();
    });
  };
  const revoke = (key: Key) => act.run(async () => {
    await revokeKey(key.id);
    keys.reload();
  });
  return (
    <Card title={w.access.keys}>
      <div class="stack">
        <form class="row" onSubmit={create}>
          <Field label={w.access.keyName}><input required maxLength={128} value={name} onInput={(event) => setName(event.currentTarget.value)} /></Field>
          <Field label={w.access.role} hint={w.access.roleHints[role]}>
            <select value={role} onChange={(event) => setRole(event.currentTarget.value as Role)}>
              {(["viewer", "user", "trainer", "admin"] as const).map((each) => <option key={each} value={each}>{w.roles[each]}</option>)}
            </select>
          </Field>
          <div class="field"><span class="label" aria-hidden="true">&nbsp;</span><Button type="submit" kind="primary" busy={act.busy}>{w.access.create}</Button></div>
        </form>
        <ErrorBox error={act.error} />
        {made && <Notice kind="good"><p>{w.access.made}</p><Copy text={made} label={w.access.keys} /><Button small onClick={() => setMade(null)}>{w.access.hide}</Button></Notice>}
        <Show of={keys}>
          {(page) => (
            <Table label={w.access.keys} rows={page.items} id={(key) => key.id} columns={[
              { title: w.data.name, cell: (key) => <bdi>{key.name}</bdi> },
              { title: w.access.role, cell: (key) => w.roles[key.role] },
              { title: w.access.prefix, cell: (key) => <code dir="ltr">sld_{key.prefix}_…</code> },
              { title: w.access.used, cell: (key) => (key.last_used_at ? ago(key.last_used_at) : w.access.never) },
              {
                title: w.access.revoke,
                cell: (key) => key.revoked_at ? <Badge tone="quiet">{w.access.revoked}</Badge> : key.id === caller?.id ? <span class="muted">{w.access.own}</span>
                  : <Confirm small label={w.access.revoke} question={w.access.revokeQuestion} onYes={() => revoke(key)} />,
              },
            ]} />
          )}
        </Show>
      </div>
    </Card>
  );
}

function Audit() {
  const w = words();
  const [cursor, setCursor] = useState<string | undefined>();
  const [earlier, setEarlier] = useState<AuditRow[]>([]);
  const rows = useLoad((signal) => listAudit(cursor, signal), [cursor]);
  const [holds, setHolds] = useState<boolean | null>(null);
  const check = useAction();
  const verify = () => check.run(async () => setHolds((await verifyAudit()).holds));
  return (
    <Card title={w.access.audit} note={w.access.auditNote} actions={<Button busy={check.busy} onClick={verify}>{w.access.verify}</Button>}>
      <div class="stack">
        <ErrorBox error={check.error} />
        {holds !== null && <Notice kind={holds ? "good" : "bad"}><span role="status">{holds ? w.access.holds : w.access.broken}</span></Notice>}
        <Show of={rows}>
          {(page) => (
            <>
              <Table label={w.access.audit} rows={[...earlier, ...page.items]} id={(row) => String(row.seq)} columns={[
                { title: w.data.when, cell: (row) => <span class="nowrap">{moment(row.at)}</span> },
                { title: w.access.who, cell: (row) => <bdi>{String(row.details.key ?? row.actor)}</bdi> },
                { title: w.access.action, cell: (row) => <code dir="ltr">{row.action}</code> },
                { title: w.access.decision, cell: (row) => <Badge tone={row.decision === "allow" ? "good" : "bad"}>{row.decision === "allow" ? w.access.allowed : w.access.denied}</Badge> },
              ]} />
              <More page={page} onMore={(next) => { setEarlier([...earlier, ...page.items]); setCursor(next); }} />
            </>
          )}
        </Show>
      </div>
    </Card>
  );
}
