/** A specialist's answer, each part as its kind wants it: a timeline, marked evidence, labels with scores, a heat map over
 * the picture, a report, tables, and otherwise names with values. */
import type { ComponentChildren } from "preact";
import { isRecord, metric, number } from "../format";
import { words } from "../state";
import { Table } from "../ui/parts";
import { Markdown } from "../ui/markdown";
import { Labels } from "./try";

type Values = Record<string, unknown>;
interface Span extends Values {
  start: number;
  end: number;
}

export function Answer({ output, input, picture }: { output: Values; input: Values; picture: string | undefined }) {
  const text = typeof input.text === "string" ? input.text : undefined;
  const sorted = "label" in output && isRecord(output.scores);
  const heat = isGrid(output.heat_map) ? output.heat_map : null;
  const without = [...(sorted ? ["label", "scores"] : []), ...(heat ? ["heat_map"] : [])];
  return (
    <>
      {sorted && <Labels label={output.label} scores={output.scores as Record<string, number>} />}
      {heat && <HeatMap values={heat} picture={picture} />}
      <Members of={output} without={without} text={text} />
    </>
  );
}

const isGrid = (value: unknown): value is number[][] =>
  Array.isArray(value) && value.length > 0 && value.every((row) => Array.isArray(row) && row.length > 0 && row.every((cell) => typeof cell === "number"));

/** Where in the picture a decision rests: the redder a part, the further the odds of the label fall where it is hidden,
 * relative to the part that weighs most. */
function HeatMap({ values, picture }: { values: number[][]; picture: string | undefined }) {
  const w = words();
  const rows = values.length, columns = values[0]?.length ?? 1;
  const most = Math.max(...values.flat(), 0);
  let strongest: readonly [number, number] = [0, 0];
  values.forEach((row, y) => row.forEach((value, x) => {
    if (value > (values[strongest[0]]?.[strongest[1]] ?? 0)) strongest = [y, x];
  }));
  const label = most > 0 ? w.specialists.heat(number(strongest[0] + 1), number(strongest[1] + 1), number(rows), number(columns)) : w.specialists.noHeat;
  return (
    <figure class="value">
      <svg class="heat" viewBox={`0 0 ${columns * 10} ${rows * 10}`} role="img" aria-label={label}>
        {picture && <image href={picture} width={columns * 10} height={rows * 10} preserveAspectRatio="none" />}
        {most > 0 && values.flatMap((row, y) => row.map((value, x) => (
          <rect key={`${y} ${x}`} x={x * 10} y={y * 10} width="10" height="10" fill-opacity={(0.65 * Math.max(0, value)) / most} />
        )))}
      </svg>
      <figcaption class="muted small">{w.specialists.heatNote} {label}</figcaption>
    </figure>
  );
}

const Members = ({ of, without, text }: { of: Values; without: readonly string[]; text: string | undefined }) => (
  <dl class="value">
    {Object.entries(of).filter(([name]) => !without.includes(name)).map(([name, value]) => (
      <div key={name}><dt lang="en">{name.replaceAll("_", " ")}</dt><dd><Member name={name} value={value} text={text} /></dd></div>
    ))}
  </dl>
);

function Member({ name, value, text }: { name: string; value: unknown; text: string | undefined }): ComponentChildren {
  const w = words();
  if (value === null || value === undefined || value === "") return <span class="muted">–</span>;
  if (typeof value === "boolean") return value ? w.yes : w.no;
  if (typeof value === "number") return <bdi>{Number.isInteger(value) ? number(value) : metric(value)}</bdi>;
  if (typeof value === "string") return name === "report" || /^#|\n[#|-]/.test(value) ? <Markdown text={value} /> : <span dir="auto">{value}</span>;
  if (Array.isArray(value)) return <List name={name} value={value} text={text} />;
  return isRecord(value) ? <Record of={value} /> : String(value);
}

function List({ name, value, text }: { name: string; value: unknown[]; text: string | undefined }) {
  const w = words();
  if (value.length === 0) return <span class="muted">{w.specialists.nothing}</span>;
  if (!value.every(isRecord)) return <ul>{value.map((each, index) => <li key={index} dir="auto">{isRecord(each) ? <Record of={each} /> : String(each)}</li>)}</ul>;
  const rows = value as Values[];
  if (rows.every((row) => typeof row.time === "string" && typeof row.description === "string")) return <Timeline events={rows} />;
  const spans = rows.filter((row): row is Span => typeof row.start === "number" && typeof row.end === "number");
  return (
    <>
      {text !== undefined && text.length <= 20_000 && spans.length === rows.length && <Marked text={text} spans={spans} />}
      <Rows name={name} rows={rows} />
    </>
  );
}

function Rows({ name, rows }: { name: string; rows: readonly Values[] }) {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((column) => rows.some((row) => row[column] !== "" && row[column] !== null));
  const shown = rows.slice(0, 300).map((row, index) => ({ row, index }));
  return (
    <Table label={name} rows={shown} id={({ index }) => String(index)} columns={columns.map((column) => ({
      title: column.replaceAll("_", " "),
      cell: ({ row }: { row: Values }) => <bdi>{typeof row[column] === "object" && row[column] !== null ? JSON.stringify(row[column]) : String(row[column] ?? "")}</bdi>,
    }))} />
  );
}

const Timeline = ({ events }: { events: readonly Values[] }) => (
  <ol class="timeline">
    {events.slice(0, 500).map((event, index) => (
      <li key={index}>
        <time dir="ltr">{String(event.time).replace("T", " ").replace(/Z$|\+00:00$/, " UTC")}</time>
        {event.host || event.source ? <span class="muted"> · <bdi>{[event.host, event.source].filter(Boolean).join(" ")}</bdi></span> : null}
        <div dir="auto">{String(event.description)}</div>
      </li>
    ))}
  </ol>
);

/** The text with its findings marked; of spans within one another the outer one. */
function Marked({ text, spans }: { text: string; spans: readonly Span[] }) {
  const characters = [...text];
  const parts: ComponentChildren[] = [];
  let at = 0;
  for (const span of [...spans].sort((one, other) => one.start - other.start || other.end - one.end)) {
    if (span.start < at) continue;
    parts.push(characters.slice(at, span.start).join(""));
    parts.push(<mark title={String(span.kind ?? span.label ?? "")}>{characters.slice(span.start, span.end).join("")}</mark>);
    at = span.end;
  }
  parts.push(characters.slice(at).join(""));
  return <p class="marked" dir="auto">{parts}</p>;
}

const Record = ({ of }: { of: Values }) => (
  <ul>
    {Object.entries(of).map(([name, value]) => (
      <li key={name}><bdi lang="en">{name.replaceAll("_", " ")}</bdi>: <bdi>{typeof value === "object" && value !== null ? JSON.stringify(value) : String(value)}</bdi></li>
    ))}
  </ul>
);
