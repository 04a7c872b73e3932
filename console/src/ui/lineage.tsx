/** Where a version comes from, drawn from its documents down to its endpoint. Each box leads to its page; the same as text stands
 * below the picture. */
import type { Lineage, ModelDetails } from "../api/shapes";
import { number } from "../format";
import { link, words } from "../state";

const BOX = { width: 146, height: 54 }, GAP = { x: 14, y: 36 }, MOST_BESIDE = 4;

interface Box {
  id: string;
  kind: string;
  name: string;
  href?: string;
  from: readonly string[];
}

/** The boxes by row, from what was made first to what was made last. */
function rowsOf(lineage: Lineage, model: ModelDetails): Box[][] {
  const w = words();
  const { dataset, run, scores, documents } = lineage.made_from;
  const some = (documents ?? []).slice(0, MOST_BESIDE);
  const more = (documents ?? []).length - some.length;
  const sources: Box[] = some.map((each) => ({
    id: each.id, kind: w.data.stages.documents, name: w.lineage.documents(number(each.counts?.documents ?? 0)), href: link("data", each.id), from: [],
  }));
  if (more > 0) sources.push({ id: "more", kind: w.data.stages.documents, name: w.lineage.more(number(more)), from: [] });
  const bases: Box[] = lineage.built_on.slice(0, 1).map((each) => ({ id: each.id, kind: w.train.base, name: `${each.name} ${each.version}`, href: link("models", each.id), from: [] }));
  const base = bases.map((each) => each.id);
  const prepared: Box[] = dataset ? [{ id: dataset, kind: w.data.stages.dataset, name: dataset.slice(-8), href: link("data", dataset), from: sources.map((each) => each.id) }] : [];
  const trained: Box[] = run ? [{
    id: run, kind: w.models.training, name: run.slice(-8), from: [...prepared.map((each) => each.id), ...base],
    ...(model.training_job_id ? { href: link("train", model.training_job_id) } : {}),
  }] : [];
  const measured: Box[] = scores && run ? [{ id: scores, kind: w.evaluation.title, name: scores.slice(-8), from: [run] }] : [];
  const version: Box = {
    id: lineage.model.id, kind: w.models.version, name: `${lineage.model.name} ${lineage.model.version}`, href: link("models", lineage.model.id),
    from: [...(run ? [run] : base), ...measured.map((each) => each.id)],
  };
  const endpoint: Box[] = model.deployed ? [{ id: "endpoint", kind: w.lineage.endpoint, name: model.deployment?.status ?? w.models.deployed, href: link("try", model.id), from: [version.id] }] : [];
  const built: Box[] = lineage.bases_of.slice(0, MOST_BESIDE - 1).map((each) => ({ id: each.id, kind: w.lineage.builtOn, name: `${each.name} ${each.version}`, href: link("models", each.id), from: [version.id] }));
  return [sources, [...prepared, ...bases], trained, measured, [version], [...endpoint, ...built]].filter((row) => row.length > 0);
}

export function LineageGraph({ lineage, model }: { lineage: Lineage; model: ModelDetails }) {
  const w = words();
  const rows = rowsOf(lineage, model);
  const widest = Math.max(2, ...rows.map((row) => row.length));
  const width = widest * BOX.width + (widest - 1) * GAP.x + 2, height = rows.length * BOX.height + (rows.length - 1) * GAP.y + 2;
  const places = new Map<string, { x: number; y: number }>();
  rows.forEach((row, line) => row.forEach((box, place) => {
    const left = (width - row.length * BOX.width - (row.length - 1) * GAP.x) / 2;
    places.set(box.id, { x: left + place * (BOX.width + GAP.x), y: 1 + line * (BOX.height + GAP.y) });
  }));
  const boxes = rows.flat();
  const nameOf = (id: string) => boxes.filter((each) => each.id === id).map((each) => `${each.kind} ${each.name}`).join("");
  return (
    <>
      <div class="table-box" role="region" aria-label={w.lineage.title} tabIndex={0}>
        <svg class="lineage" viewBox={`0 0 ${width} ${height}`} width={width} height={height} role="group" aria-label={w.lineage.title}>
          {boxes.flatMap((box) => box.from.map((id) => {
            const from = places.get(id), to = places.get(box.id);
            if (!from || !to) return null;
            const x1 = from.x + BOX.width / 2, y1 = from.y + BOX.height, x2 = to.x + BOX.width / 2, middle = (y1 + to.y) / 2;
            return <path key={`${id}-${box.id}`} class="way" d={`M${x1} ${y1}C${x1} ${middle} ${x2} ${middle} ${x2} ${to.y}`} />;
          }))}
          {boxes.map((box) => {
            const place = places.get(box.id) ?? { x: 0, y: 0 };
            const content = (
              <>
                <rect class={box.id === lineage.model.id ? "own" : ""} x={place.x} y={place.y} width={BOX.width} height={BOX.height} rx="8" />
                <text class="kind" x={place.x + BOX.width / 2} y={place.y + 21} text-anchor="middle">{box.kind}</text>
                <text x={place.x + BOX.width / 2} y={place.y + 40} text-anchor="middle">{short(box.name)}</text>
              </>
            );
            const label = `${box.kind}: ${box.name}`;
            return box.href ? <a key={box.id} href={box.href} aria-label={label}>{content}</a> : <g key={box.id} role="img" aria-label={label}>{content}</g>;
          })}
        </svg>
      </div>
      <details>
        <summary>{w.lineage.asText}</summary>
        <ul>
          {boxes.map((box) => (
            <li key={box.id}>
              {box.kind}: {box.href ? <a href={box.href}><bdi>{box.name}</bdi></a> : <bdi>{box.name}</bdi>}
              {box.from.length > 0 && <span class="muted"> {w.lineage.from(box.from.map(nameOf).filter(Boolean).join(w.comma))}</span>}
            </li>
          ))}
        </ul>
      </details>
    </>
  );
}

const short = (name: string): string => (name.length > 19 ? `${name.slice(0, 18)}…` : name);
