/** Pictures of numbers, drawn as SVG: curves of a training, intervals of a comparison. */
import type { CurvePoint, Interval as Values } from "../api/shapes";
import { metric, number, signed } from "../format";
import { words } from "../state";

const WIDTH = 640, HEIGHT = 220, LEFT = 46, BOTTOM = 26, TOP = 10, RIGHT = 12;

/** Where steps and values lie in a picture that holds all of these points. */
function scales(all: Points) {
  const lastStep = Math.max(1, ...all.map(([step]) => step));
  const low = Math.min(...all.map(([, value]) => value)), high = Math.max(...all.map(([, value]) => value));
  const x = (step: number) => LEFT + (step / lastStep) * (WIDTH - LEFT - RIGHT);
  const y = (value: number) => TOP + ((high - value) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
  const path = (line: Points) =>
    line.map(([step, value], index) => `${index ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  return { x, y, path, low, high, lastStep };
}

function Axes({ ticks, y, lastStep }: { ticks: readonly number[]; y: (value: number) => number; lastStep: number }) {
  return (
    <>
      {ticks.map((tick) => (
        <g key={tick}>
          <line class="axis" x1={LEFT} x2={WIDTH - RIGHT} y1={y(tick)} y2={y(tick)} />
          <text x={LEFT - 6} y={y(tick) + 4} text-anchor="end">{metric(tick)}</text>
        </g>
      ))}
      <text x={LEFT} y={HEIGHT - 6}>0</text>
      <text x={WIDTH - RIGHT} y={HEIGHT - 6} text-anchor="end">{number(lastStep)}</text>
    </>
  );
}

/** Losses over steps; one is better when it falls. */
export function Curves({ points }: { points: readonly CurvePoint[] }) {
  const w = words();
  const series = (name: string) =>
    points.flatMap((point) => {
      const value = point[name];
      return typeof value === "number" && Number.isFinite(value) ? [[point.step ?? 0, value] as const] : [];
    });
  const train = series("train_loss"), validation = series("validation_loss");
  const all = [...train, ...validation];
  if (all.length < 2) return null;
  const { x, y, path, low, high, lastStep } = scales(all);
  const ticks = [0, 1, 2, 3].map((part) => low + ((high - low) * part) / 3);
  const last = validation.at(-1) ?? train.at(-1);
  return (
    <figure class="value">
      <ul class="legend"><li>{w.job.trainLoss}</li><li class="second">{w.job.validationLoss}</li></ul>
      <svg class="chart" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={w.job.curvesLabel(number(lastStep), metric(last?.[1]))}>
        <Axes ticks={ticks} y={y} lastStep={lastStep} />
        <path class="train" d={path(train)} />
        <path class="validation" d={path(validation)} />
        {validation.map(([step, value]) => <circle key={step} class="dot" cx={x(step)} cy={y(value)} r="3" />)}
      </svg>
    </figure>
  );
}

type Points = readonly (readonly [number, number])[];

export interface Line {
  name: string;
  points: Points;
}

/** Several curves in one picture; each has its colour and its dashes. */
export function Lines({ lines, label }: { lines: readonly Line[]; label: string }) {
  const { y, path, low, high, lastStep } = scales(lines.flatMap((line) => line.points));
  return (
    <figure class="value">
      <ul class="legend">{lines.map((line, number) => <li key={line.name} class={`line${number % 4}`}><bdi>{line.name}</bdi></li>)}</ul>
      <svg class="chart" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={label}>
        <Axes ticks={[low, (low + high) / 2, high]} y={y} lastStep={lastStep} />
        {lines.map((line, place) => (
          <path key={line.name} class={`line line${place % 4}`} d={path(line.points)} />
        ))}
      </svg>
    </figure>
  );
}

const LOWER_IS_BETTER = /loss|perplexity|error|brier|calibration/;
export const lowerIsBetter = (name: string): boolean => LOWER_IS_BETTER.test(name);

/** A difference with its 95 % interval against zero, on a scale that the interval itself sets. */
export function Interval({ name, values }: { name: string; values: Values }) {
  const reach = Math.max(Math.abs(values.low), Math.abs(values.high)) * 1.12 || 1;
  const x = (value: number) => 110 + (value / reach) * 104;
  const certain = values.low > 0 || values.high < 0;
  const better = certain && values.mean < 0 === lowerIsBetter(name);
  return (
    <svg class={`interval ${certain ? (better ? "better" : "worse") : ""}`} viewBox="0 0 220 22" role="img"
      aria-label={words().evaluation.interval(signed(values.mean), signed(values.low), signed(values.high))}>
      <line class="zero" x1="110" x2="110" y1="2" y2="20" />
      <line class="span" x1={x(values.low)} x2={x(values.high)} y1="11" y2="11" />
      <circle class="mean" cx={x(values.mean)} cy="11" r="4.5" />
    </svg>
  );
}
