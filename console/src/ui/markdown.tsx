/** Markdown of cards and reports as elements: headings, lists, tables, code, emphasis. What a text says never becomes
 * markup, and its addresses are shown, not followed, unless they are https. */
import type { ComponentChildren } from "preact";

const INLINE = /(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\(https:\/\/[^)\s]+\))/;

function inline(text: string): ComponentChildren[] {
  return text.split(INLINE).map((part) => {
    if (part.startsWith("`") && part.endsWith("`") && part.length > 1) return <code>{part.slice(1, -1)}</code>;
    if (part.startsWith("**") && part.length > 4) return <strong>{part.slice(2, -2)}</strong>;
    const address = /^\[([^\]]+)\]\((https:\/\/[^)\s]+)\)$/.exec(part);
    return address ? <a href={address[2]} rel="noreferrer noopener" target="_blank">{address[1]}</a> : part;
  });
}

const cells = (line: string): string[] => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function table(lines: readonly string[]): ComponentChildren {
  const [head = "", , ...rows] = lines;
  const titles = cells(head);
  return (
    <div class="table-box" role="region" aria-label={titles.filter(Boolean).join(", ") || "table"} tabIndex={0}>
      <table>
        {titles.some(Boolean) && <thead><tr>{titles.map((cell) => <th scope="col">{inline(cell)}</th>)}</tr></thead>}
        <tbody>{rows.map((row) => <tr>{cells(row).map((cell) => <td>{inline(cell)}</td>)}</tr>)}</tbody>
      </table>
    </div>
  );
}

function block(lines: string[]): ComponentChildren {
  const [first = ""] = lines;
  const heading = /^(#{1,6})\s+(.*)$/.exec(first);
  if (heading) {
    const Title = (["h3", "h3", "h4", "h5", "h5", "h5"] as const)[(heading[1]?.length ?? 1) - 1] ?? "h5";
    const rest = lines.slice(1);
    return <><Title>{inline(heading[2] ?? "")}</Title>{rest.length > 0 && block(rest)}</>;
  }
  if (lines.length > 1 && first.includes("|") && /^[\s|:-]+$/.test(lines[1] ?? "")) return table(lines);
  if (lines.every((line) => /^(\s*[-*]|\s{2,})\s/.test(line)) && /^[-*]\s/.test(first)) {
    const items = lines.join("\n").split(/^\s*[-*]\s+/m).filter(Boolean);
    return <ul>{items.map((item) => <li>{inline(item.replace(/\n\s*/g, " "))}</li>)}</ul>;
  }
  if (/^\d+\.\s/.test(first)) {
    const items = lines.join("\n").split(/^\d+\.\s+/m).filter(Boolean);
    return <ol>{items.map((item) => <li>{inline(item.replace(/\n\s*/g, " "))}</li>)}</ol>;
  }
  return <p>{inline(lines.join(" "))}</p>;
}

export function Markdown({ text }: { text: string }) {
  const parts: ComponentChildren[] = [];
  let lines: string[] = [];
  let code: string[] | null = null;
  const end = () => {
    if (lines.length) parts.push(block(lines));
    lines = [];
  };
  for (const line of text.replace(/^---\n[\s\S]*?\n---\n/, "").split("\n")) {
    if (line.startsWith("```")) {
      if (code) parts.push(<pre class="code" tabIndex={0}>{code.join("\n")}</pre>);
      else end();
      code = code ? null : [];
    } else if (code) code.push(line);
    else if (!line.trim() || /^!\[/.test(line)) end();
    else lines.push(line);
  }
  end();
  return <div class="markdown" dir="auto">{parts}</div>;
}
