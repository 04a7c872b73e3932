/** The few parts that every page is made of. */
import type { ButtonHTMLAttributes, ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { Problem } from "../api/client";
import type { JobStatus } from "../api/shapes";
import { percent } from "../format";
import { type Loaded } from "../load";
import { words } from "../state";

type Children = { children?: ComponentChildren };

export const Head = ({ title, intro, children }: { title: string; intro?: ComponentChildren } & Children) => (
  <header class="page-head">
    <div>
      <h1>{title}</h1>
      {intro && <p class="intro">{intro}</p>}
    </div>
    {children && <div class="actions">{children}</div>}
  </header>
);

export const Card = ({ title, note, children, actions, wide }: {
  title?: ComponentChildren; note?: ComponentChildren; actions?: ComponentChildren; wide?: boolean;
} & Children) => (
  <section class={wide ? "card wide" : "card"}>
    {(title || actions) && (
      <div class="card-head">
        {title && <h2>{title}</h2>}
        {actions && <div class="actions">{actions}</div>}
      </div>
    )}
    {note && <p class="muted">{note}</p>}
    {children}
  </section>
);

type ButtonProps = {
  kind?: "primary" | "plain" | "danger"; busy?: boolean; small?: boolean;
} & ButtonHTMLAttributes<HTMLButtonElement>;

export const Button = ({ kind = "plain", busy, small, children, disabled, ...rest }: ButtonProps) => (
  <button type="button" {...rest} class={`button ${kind}${small ? " small" : ""}`} disabled={disabled || busy} aria-busy={busy}>
    {children}
  </button>
);

export const LinkButton = ({ href, kind = "plain", small, children }: {
  href: string; kind?: "primary" | "plain"; small?: boolean;
} & Children) => (
  <a class={`button ${kind}${small ? " small" : ""}`} href={href}>{children}</a>
);

/** Asks once more in place of a dialog. */
export function Confirm({ label, question, onYes, kind = "danger", small }: {
  label: string; question: string; onYes: () => void; kind?: "danger" | "plain"; small?: boolean;
}) {
  const [asked, ask] = useState(false);
  const w = words();
  if (!asked) return <Button kind={kind} small={small ?? false} onClick={() => ask(true)}>{label}</Button>;
  return (
    <span class="confirm" role="group" aria-label={question}>
      <span>{question}</span>
      <Button kind="danger" small onClick={() => { ask(false); onYes(); }}>{w.yes}</Button>
      <Button small onClick={() => ask(false)}>{w.no}</Button>
    </span>
  );
}

export const Field = ({ label, hint, children }: { label: string; hint?: ComponentChildren } & Children) => (
  <label class="field">
    <span class="label">{label}</span>
    {children}
    {hint && <span class="hint">{hint}</span>}
  </label>
);

export function ErrorBox({ error }: { error: unknown }) {
  if (!error) return null;
  const w = words();
  const problem = error instanceof Problem ? error : new Problem(-1, error instanceof Error ? error.message : String(error));
  const said = problem.status === 0 ? w.errors.unreachable : problem.detail || w.errors.status(problem.status);
  return (
    <div class="notice bad" role="alert">
      <strong dir="auto">{said}</strong>
      {problem.status === 0 && <p>{w.errors.unreachableRemedy}</p>}
      {problem.remedy && <p dir="auto">{problem.remedy}</p>}
      {problem.errors.length > 0 && (
        <ul>{problem.errors.map((each) => <li key={each.loc}><code>{each.loc}</code> {each.msg}</li>)}</ul>
      )}
    </div>
  );
}

export const Notice = ({ kind = "info", children }: { kind?: "info" | "good" | "warn" | "bad" } & Children) => (
  <div class={`notice ${kind}`}>{children}</div>
);

export const Empty = ({ title, children }: { title: string } & Children) => (
  <div class="empty">
    <p><strong>{title}</strong></p>
    {children}
  </div>
);

/** What is loaded, that it loads, or why not. */
export function Show<T>({ of, children }: { of: Loaded<T>; children: (data: T) => ComponentChildren }) {
  if (of.data === undefined) return of.error ? <><ErrorBox error={of.error} /><Button onClick={of.reload}>{words().again}</Button></> : <Waiting />;
  return <>{of.error ? <ErrorBox error={of.error} /> : null}{children(of.data)}</>;
}

export const Waiting = () => <p class="waiting" role="status">{words().loading}</p>;

const TONES: Record<string, string> = {
  completed: "good", running: "info", pending: "info", failed: "bad", cancelled: "quiet", deployed: "good", good: "good", bad: "bad",
};

export const Badge = ({ tone, children }: { tone: string } & Children) => (
  <span class={`badge ${TONES[tone] ?? "quiet"}`}>{children}</span>
);

export const StatusBadge = ({ status }: { status: JobStatus | string }) => (
  <Badge tone={status}>{words().statuses[status as JobStatus] ?? status}</Badge>
);

export const Bar = ({ share, label }: { share: number; label: string }) => (
  <progress class="bar" max={1} value={Math.min(1, Math.max(0, share))} aria-label={label}>{percent(share)}</progress>
);

export interface Column<T> {
  title: string;
  cell: (row: T) => ComponentChildren;
  numeric?: boolean;
}

export function Table<T>({ rows, columns, label, id }: {
  rows: readonly T[]; columns: readonly Column<T>[]; label: string; id: (row: T) => string;
}) {
  return (
    <div class="table-box" role="region" aria-label={label} tabIndex={0}>
      <table class="stacking">
        <caption class="unseen">{label}</caption>
        <thead>
          <tr>{columns.map((column) => <th key={column.title} scope="col" class={column.numeric ? "numeric" : ""}>{column.title}</th>)}</tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={id(row)}>
              {columns.map((column) => (
                <td key={column.title} data-title={column.title} class={column.numeric ? "numeric" : ""}>{column.cell(row)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export const Facts = ({ of }: { of: readonly (readonly [string, ComponentChildren])[] }) => (
  <dl class="facts">
    {of.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value ?? "–"}</dd></div>)}
  </dl>
);

export const Code = ({ children }: { children: string }) => <pre class="code" dir="ltr" tabIndex={0}>{children}</pre>;

/** A text that people copy: a key, a call. */
export function Copy({ text, label }: { text: string; label: string }) {
  const [copied, setCopied] = useState(false);
  const w = words();
  const copy = () => void navigator.clipboard?.writeText(text).then(() => setCopied(true), () => undefined);
  return (
    <div class="copy">
      <Code>{text}</Code>
      {navigator.clipboard && <Button small onClick={copy} aria-label={`${w.copy}: ${label}`}>{copied ? w.copied : w.copy}</Button>}
    </div>
  );
}

export function More<T>({ page, onMore }: { page: { next: T | null }; onMore: (cursor: T) => void }) {
  return page.next === null ? null : <Button onClick={() => page.next !== null && onMore(page.next)}>{words().more}</Button>;
}
