import { useState } from "preact/hooks";
import { askSpecialist, listSpecialists } from "../api/calls";
import type { Capability, Pack, Schema } from "../api/shapes";
import { useAction, useLoad } from "../load";
import { link, may, words } from "../state";
import { Button, Card, ErrorBox, Field, Head, Notice, Show } from "../ui/parts";
import { base64Of } from "./try";
import { Answer } from "./answer";

/** A capability as a form made from its schema, and its answer. */
export function Specialist({ path }: { path: string[] }) {
  const [domain = "", name = ""] = path;
  const w = words();
  const loaded = useLoad(listSpecialists, []);
  return (
    <Show of={loaded}>
      {(page) => {
        const pack = page.items.find((each) => each.id === domain);
        const capability = pack?.capabilities[name];
        return pack && capability ? <Ask pack={pack} name={name} capability={capability} /> : <Notice kind="warn">{w.errors.noPage}</Notice>;
      }}
    </Show>
  );
}

function Ask({ pack, name, capability }: { pack: Pack; name: string; capability: Capability }) {
  const w = words();
  const [values, setValues] = useState<Record<string, string>>({});
  const [answer, setAnswer] = useState<{ output: Record<string, unknown>; notice: string; input: Record<string, unknown> } | null>(null);
  const asking = useAction();
  const fields = Object.entries(capability.input.properties ?? {});
  const required = new Set(capability.input.required ?? []);
  const pictureField = capability.by.picture;
  const submit = (event: Event) => {
    event.preventDefault();
    asking.run(async () => {
      const input = inputOf(fields, values, w.specialists.notJson);
      const { output, notice } = await askSpecialist(pack.id, name, input);
      setAnswer({ output, notice, input });
    });
  };
  const example = capability.example;
  const useExample = () => setValues(Object.fromEntries(Object.entries(example ?? {}).map(([key, value]) => [key, textOf(value, capability.input.properties?.[key])])));
  return (
    <>
      <a class="crumb" href={link("specialists")}>{w.specialists.title}</a>
      <Head title={`${pack.title}: ${name}`} intro={<span lang="en" dir="auto">{capability.description}</span>}>
        {example && Object.keys(example).length > 0 && <Button onClick={useExample}>{w.specialists.example}</Button>}
      </Head>
      <div class="stack">
        <Card>
          <form class="form" onSubmit={submit}>
            {fields.map(([field, schema]) => (
              <SchemaField key={field} name={field} schema={schema} required={required.has(field)} picture={field === pictureField} value={values[field] ?? ""} onValue={(value) => setValues((before) => ({ ...before, [field]: value }))} />
            ))}
            <ErrorBox error={asking.error} />
            {may("user") ? <div class="actions"><Button type="submit" kind="primary" busy={asking.busy}>{w.specialists.ask}</Button></div> : <Notice kind="warn">{w.errors.role("user")}</Notice>}
          </form>
        </Card>
        {answer && (
          <section aria-live="polite" class="stack">
            <Card title={w.specialists.answer}><Answer output={answer.output} input={answer.input} picture={pictureField ? pictureOf(answer.input[pictureField]) : undefined} /></Card>
            <Notice kind="warn"><span lang="en" dir="auto">{answer.notice}</span></Notice>
          </section>
        )}
      </div>
    </>
  );
}

const typeOf = (schema: Schema): string => {
  const types = Array.isArray(schema.type) ? schema.type : [schema.type ?? "string"];
  return types.find((type) => type !== "null") ?? "string";
};
const isComplex = (schema: Schema) => typeOf(schema) === "object" || (typeOf(schema) === "array" && typeOf(schema.items ?? {}) !== "string");
const isLong = (schema: Schema) => (schema.maxLength ?? 0) > 300;

/** A value of an example as its field shows it. */
function textOf(value: unknown, schema: Schema = {}): string {
  if (isComplex(schema)) return JSON.stringify(value, null, 2);
  return Array.isArray(value) ? value.join("\n") : String(value);
}

/** What the fields say, as the schema wants it; empty fields are left out. */
function inputOf(fields: readonly (readonly [string, Schema])[], values: Record<string, string>, complaint: (field: string) => string): Record<string, unknown> {
  const input: Record<string, unknown> = {};
  for (const [field, schema] of fields) {
    const text = values[field] ?? "";
    if (text === "") continue;
    const type = typeOf(schema);
    if (isComplex(schema)) {
      try {
        input[field] = JSON.parse(text) as unknown;
      } catch {
        throw new Error(complaint(field));
      }
    } else if (type === "array") input[field] = text.split("\n").map((line) => line.trim()).filter(Boolean);
    else if (type === "boolean") input[field] = text === "true";
    else input[field] = type === "integer" || type === "number" ? Number(text) : text;
  }
  return input;
}

/** A picture in base64 as an address of its data; PNG files begin with the same bytes. */
const pictureOf = (base64: unknown): string | undefined =>
  typeof base64 === "string" && base64 ? `data:image/${base64.startsWith("iVBOR") ? "png" : "jpeg"};base64,${base64}` : undefined;

function SchemaField({ name, schema, required, picture, value, onValue }: {
  name: string; schema: Schema; required: boolean; picture: boolean; value: string; onValue: (value: string) => void;
}) {
  const w = words();
  const type = typeOf(schema);
  const label = `${name}${required ? "" : ` (${w.specialists.optional})`}`;
  const hint = <>{schema.description && <span lang="en" dir="auto">{schema.description}</span>}{isComplex(schema) ? ` ${w.specialists.json}` : type === "array" ? ` ${w.specialists.lines}` : ""}</>;
  const open = (file: File | undefined) => void file?.text().then(onValue);
  if (picture)
    return (
      <>
        <Field label={label} hint={w.try.pictureHint}>
          <input type="file" required={required && !value} accept="image/png,image/jpeg" onChange={(event) => {
            const file = event.currentTarget.files?.[0];
            if (file) void base64Of(file).then(onValue);
          }} />
        </Field>
        {value && <img class="tried" src={pictureOf(value)} alt={label} />}
      </>
    );
  if (schema.enum)
    return (
      <Field label={label} hint={hint}>
        <select required={required} value={value} onChange={(event) => onValue(event.currentTarget.value)}>
          <option value="">–</option>
          {schema.enum.map((each) => <option key={String(each)} value={String(each)}>{String(each)}</option>)}
        </select>
      </Field>
    );
  if (type === "boolean")
    return (
      <Field label={label} hint={hint}>
        <select required={required} value={value} onChange={(event) => onValue(event.currentTarget.value)}>
          <option value="">–</option><option value="true">{w.yes}</option><option value="false">{w.no}</option>
        </select>
      </Field>
    );
  if (type === "integer" || type === "number")
    return (
      <Field label={label} hint={hint}>
        <input type="number" required={required} min={schema.minimum} max={schema.maximum} step={type === "integer" ? 1 : "any"} value={value} onInput={(event) => onValue(event.currentTarget.value)} />
      </Field>
    );
  if (type === "array" || isComplex(schema) || isLong(schema))
    return (
      <div class="form">
        <Field label={label} hint={hint}>
          <textarea class={isComplex(schema) ? "mono" : ""} dir="auto" required={required} rows={isLong(schema) ? 8 : 5} value={value} onInput={(event) => onValue(event.currentTarget.value)} />
        </Field>
        <label class="small">
          <span class="muted">{w.specialists.file} </span>
          <input type="file" accept=".txt,.md,.log,.csv,.json,.jsonl,.py,text/*" onChange={(event) => open(event.currentTarget.files?.[0])} />
        </label>
      </div>
    );
  return (
    <Field label={label} hint={hint}>
      <input dir="auto" required={required} maxLength={schema.maxLength} value={value} onInput={(event) => onValue(event.currentTarget.value)} />
    </Field>
  );
}
