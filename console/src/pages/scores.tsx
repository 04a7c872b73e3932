/** An evaluation: the verdict and why, each metric before and after with its interval, answers side by side. */
import type { Example, Scores, Slice } from "../api/shapes";
import { metric, number, signed } from "../format";
import { words } from "../state";
import { Card, Notice, Table } from "../ui/parts";
import { Interval } from "../ui/pictures";

export function ScoresView({ scores }: { scores: Partial<Scores> }) {
  const w = words();
  const names = Object.keys(scores.tuned ?? {});
  const gate = scores.gate;
  const missing = Object.entries(scores.missing ?? {});
  return (
    <Card title={w.evaluation.title} note={w.evaluation.on(number(scores.documents ?? 0), number(scores.tokens ?? 0))}>
      <div class="stack">
        {gate && typeof gate.passed === "boolean" && (
          <Notice kind={gate.passed ? "good" : "bad"}>
            <strong>{gate.passed ? w.evaluation.passed : w.evaluation.notPassed}</strong>
            {typeof gate.verdict === "string" && <p dir="auto" lang="en">{gate.verdict}</p>}
          </Notice>
        )}
        {scores.answers && (
          <p>{w.evaluation.answers(number(scores.answers.count), number(scores.answers.better), number(scores.answers.worse), number(scores.answers.same))}</p>
        )}
        <Table label={w.evaluation.title} rows={names} id={(name) => name} columns={[
          { title: w.evaluation.metric, cell: (name) => w.metrics[name] ?? name },
          { title: w.evaluation.before, cell: (name) => metric(scores.base?.[name]), numeric: true },
          { title: w.evaluation.after, cell: (name) => <strong>{metric(scores.tuned?.[name])}</strong>, numeric: true },
          {
            title: w.evaluation.difference,
            cell: (name) => {
              const values = scores.difference?.[name];
              return values ? <bdi dir="ltr" class="nowrap">{signed(values.mean)} [{signed(values.low)}, {signed(values.high)}]</bdi> : "–";
            },
          },
          { title: w.evaluation.picture, cell: (name) => {
            const values = scores.difference?.[name];
            return values ? <Interval name={name} values={values} /> : "";
          } },
        ]} />
        <p class="muted small">{w.evaluation.legend}</p>
        {missing.length > 0 && <ul class="muted small">{missing.map(([name, why]) => <li key={name}>{w.metrics[name] ?? name}: <span dir="auto">{why}</span></li>)}</ul>}
      </div>
    </Card>
  );
}

export function Examples({ examples }: { examples: readonly Example[] }) {
  const w = words();
  return (
    <Card title={w.evaluation.examples} note={w.evaluation.examplesNote}>
      {examples.map((example, index) => (
        <div class="example" key={index}>
          <p class="prompt"><strong>{w.evaluation.asked} </strong><bdi>{example.prompt}</bdi></p>
          <div class="answers">
            {example.reference !== null && <Side title={w.evaluation.reference} text={example.reference} />}
            {example.base !== null && <Side title={w.evaluation.before} text={example.base} />}
            <Side title={w.evaluation.after} text={example.tuned} />
          </div>
        </div>
      ))}
    </Card>
  );
}

/** The headline metric on parts of the held-out samples. */
export function Slices({ slices }: { slices: readonly Slice[] }) {
  const w = words();
  return (
    <Card title={w.evaluation.slices} note={w.evaluation.slicesNote}>
      <Table label={w.evaluation.slices} rows={slices} id={(row) => `${row.fact} ${row.value} ${row.metric}`} columns={[
        { title: w.evaluation.part, cell: (row) => <bdi>{w.evaluation.facts[row.fact] ?? row.fact}: {row.value || "–"}</bdi> },
        { title: w.data.samples, cell: (row) => number(row.samples), numeric: true },
        { title: w.evaluation.metric, cell: (row) => w.metrics[row.metric] ?? row.metric },
        { title: w.evaluation.before, cell: (row) => metric(row.base), numeric: true },
        { title: w.evaluation.after, cell: (row) => <strong>{metric(row.tuned)}</strong>, numeric: true },
        { title: w.evaluation.picture, cell: (row) => <Interval name={row.metric} values={row.difference} /> },
      ]} />
    </Card>
  );
}

const Side = ({ title, text }: { title: string; text: string }) => (
  <div tabIndex={0} role="group" aria-label={title}><h3>{title}</h3><div dir="auto">{text || words().evaluation.nothing}</div></div>
);
