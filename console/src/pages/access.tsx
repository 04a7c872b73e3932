import { useState } from "preact/hooks";
import { createKey, listAudit, listKeys, listQuotas, revokeKey, setQuota, verifyAudit } from "../api/calls";
import type { Key, Quota, Role } from "../api/shapes";
import { ago, bytes, moment, number } from "../format";
import { useAction, useLoad, usePages } from "../load";
import { useShared, words } from "../state";
import { Badge, Bar, Button, Card, Confirm, Copy, ErrorBox, Field, Head, More, Notice, Show, Table } from "../ui/parts";

/** Keys and the audit trail. */
export function Access() {
  const w = words();
  return (
    <>
      <Head title={w.access.title} intro={w.access.intro} />
      <div class="stack"><Keys /><Quotas /><Audit /></div>
    </>
  );
}

function Keys() {
  const w = words();
  const { caller } = useShared();
  const keys = usePages(listKeys, (key) => key.id, []);
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
            <>
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
              <More page={page} onMore={keys.more} />
            </>
          )}
        </Show>
      </div>
    </Card>
  );
}

/** How much of what may be used, and how much of it was. */
function Quotas() {
  const w = words();
  const loaded = useLoad(listQuotas, [], () => 30);
  const keys = useLoad((signal) => listKeys(undefined, signal), []);
  const [subject, setSubject] = useState("");
  const [resource, setResource] = useState<Quota["resource"]>("tokens");
  const [period, setPeriod] = useState<Quota["period"]>("month");
  const [amount, setAmount] = useState("");
  const act = useAction();
  const put = (body: Parameters<typeof setQuota>[0]) => act.run(async () => {
    await setQuota(body);
    loaded.reload();
  });
  const submit = (event: Event) => {
    event.preventDefault();
    put({ subject, resource, period, amount: Number(amount) });
  };
  const named = (id: string) => keys.data?.items.find((key) => `key:${key.id}` === id)?.name ?? id.replace(/^user:/, "");
  const shown = (quota: Quota, value: number) => (quota.resource === "bytes" ? bytes(value) : number(value));
  return (
    <Card title={w.access.quotas} note={w.access.quotasNote}>
      <div class="stack">
        <Show of={loaded}>
          {(page) => page.items.length === 0 ? <p class="muted">{w.access.noQuotas}</p> : (
            <Table label={w.access.quotas} rows={page.items} id={(quota) => `${quota.subject} ${quota.resource} ${quota.period}`} columns={[
              { title: w.access.whose, cell: (quota) => (quota.subject ? <bdi>{named(quota.subject)}</bdi> : w.access.everybody) },
              { title: w.access.resource, cell: (quota) => `${w.access.resources[quota.resource]}${w.comma}${w.access.periods[quota.period]}` },
              { title: w.access.usedOf, cell: (quota) => <><bdi>{shown(quota, quota.used)} / {shown(quota, quota.amount)}</bdi><Bar share={quota.amount ? quota.used / quota.amount : 1} label={w.access.usedOf} /></> },
              { title: w.data.remove, cell: (quota) => <Confirm small label={w.data.remove} question={w.data.removeQuestion} onYes={() => put({ subject: quota.subject, resource: quota.resource, period: quota.period })} /> },
            ]} />
          )}
        </Show>
        <form class="row" onSubmit={submit}>
          <Field label={w.access.whose}>
            <select value={subject} onChange={(event) => setSubject(event.currentTarget.value)}>
              <option value="">{w.access.everybody}</option>
              {keys.data?.items.filter((key) => !key.revoked_at).map((key) => <option key={key.id} value={`key:${key.id}`}>{key.name}</option>)}
            </select>
          </Field>
          <Field label={w.access.resource}>
            <select value={resource} onChange={(event) => setResource(event.currentTarget.value as Quota["resource"])}>
              {(["tokens", "device_minutes", "bytes"] as const).map((each) => <option key={each} value={each}>{w.access.resources[each]}</option>)}
            </select>
          </Field>
          <Field label={w.access.period}>
            <select value={period} onChange={(event) => setPeriod(event.currentTarget.value as Quota["period"])}>
              {(["month", "day"] as const).map((each) => <option key={each} value={each}>{w.access.periods[each]}</option>)}
            </select>
          </Field>
          <Field label={w.access.amount}><input type="number" min={0} required value={amount} onInput={(event) => setAmount(event.currentTarget.value)} /></Field>
          <div class="field"><span class="label" aria-hidden="true">&nbsp;</span><Button type="submit" busy={act.busy}>{w.access.setQuota}</Button></div>
        </form>
        <ErrorBox error={act.error} />
      </div>
    </Card>
  );
}

function Audit() {
  const w = words();
  const rows = usePages(listAudit, (row) => row.seq, []);
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
              <Table label={w.access.audit} rows={page.items} id={(row) => String(row.seq)} columns={[
                { title: w.data.when, cell: (row) => <span class="nowrap">{moment(row.at)}</span> },
                { title: w.access.who, cell: (row) => <bdi>{String(row.details.key ?? row.actor)}</bdi> },
                { title: w.access.action, cell: (row) => <code dir="ltr">{row.action}</code> },
                { title: w.access.decision, cell: (row) => <Badge tone={row.decision === "allow" ? "good" : "bad"}>{row.decision === "allow" ? w.access.allowed : w.access.denied}</Badge> },
              ]} />
              <More page={page} onMore={rows.more} />
            </>
          )}
        </Show>
      </div>
    </Card>
  );
}
