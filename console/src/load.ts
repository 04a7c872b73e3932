/** Data that a page shows: loaded when it opens, again while something is under way, and when asked. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { Page } from "./api/shapes";

export interface Loaded<T> {
  data: T | undefined;
  error: unknown;
  reload: () => void;
}

/** `every`: seconds between two loads while the page is seen; 0 or undefined: once. What was shown stays while it loads again. */
export function useLoad<T>(
  load: (signal: AbortSignal) => Promise<T>,
  inputs: readonly unknown[],
  every?: (data: T | undefined) => number | undefined,
): Loaded<T> {
  const [state, setState] = useState<{ data: T | undefined; error: unknown }>({ data: undefined, error: undefined });
  const [round, setRound] = useState(0);
  const latest = useRef({ load, every });
  latest.current = { load, every };
  useEffect(() => {
    setState((before) => (round ? before : { data: undefined, error: undefined }));
    const stop = new AbortController();
    let timer = 0;
    const once = async () => {
      let seconds: number | undefined;
      try {
        const data = await latest.current.load(stop.signal);
        if (stop.signal.aborted) return;
        setState({ data, error: undefined });
        seconds = latest.current.every?.(data);
      } catch (error) {
        if (stop.signal.aborted) return;
        setState((before) => ({ data: before.data, error }));
        seconds = latest.current.every ? 5 : undefined;
      }
      const again = () => (document.hidden ? (timer = window.setTimeout(again, 1000)) : void once());
      if (seconds) timer = window.setTimeout(again, seconds * 1000);
    };
    void once();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [...inputs, round]);
  return { ...state, reload: useCallback(() => setRound((count) => count + 1), []) };
}

/** A list page by page: the first page again and again as `every` says, what further pages brought stays below it. */
export function usePages<T>(
  load: (cursor: string | undefined, signal?: AbortSignal) => Promise<Page<T>>,
  idOf: (item: T) => string | number,
  inputs: readonly unknown[],
  every?: (page: Page<T> | undefined) => number | undefined,
): Loaded<Page<T>> & { more: (cursor: string) => void } {
  const first = useLoad((signal) => load(undefined, signal), inputs, every);
  const [further, setFurther] = useState<Page<T> | null>(null);
  const act = useAction();
  useEffect(() => setFurther(null), inputs);
  const shown = first.data?.items ?? [];
  const ids = new Set(shown.map(idOf));
  const items = [...shown, ...(further?.items ?? []).filter((item) => !ids.has(idOf(item)))];
  const more = (cursor: string) => act.run(async () => {
    const page = await load(cursor);
    setFurther({ items: [...items, ...page.items], next: page.next });
  });
  const reload = () => {
    setFurther(null);
    first.reload();
  };
  return { data: first.data && { items, next: further ? further.next : first.data.next }, error: first.error ?? act.error, reload, more };
}

/** Something that a button starts: `run` shows it as under way and keeps what went wrong. While it is under way a second
 * click does nothing. */
export function useAction(): { busy: boolean; error: unknown; run: (act: () => Promise<void>) => void; clear: () => void } {
  const [state, setState] = useState<{ busy: boolean; error: unknown }>({ busy: false, error: undefined });
  const running = useRef(false);
  const run = (act: () => Promise<void>) => {
    if (running.current) return;
    running.current = true;
    setState({ busy: true, error: undefined });
    const end = (error: unknown) => {
      running.current = false;
      setState({ busy: false, error });
    };
    act().then(() => end(undefined), end);
  };
  return { ...state, run, clear: () => setState({ busy: false, error: undefined }) };
}

/** The `Idempotency-Key` of what is asked for: the same however often this page asks for the same, so that a click after an
 * answer that was lost starts nothing twice; another one for something else. */
export function useOnce(): (asked: unknown) => string {
  const keys = useRef(new Map<string, string>());
  return (asked) => {
    const text = JSON.stringify(asked ?? null);
    const key = keys.current.get(text) ?? newKey();
    keys.current.set(text, key);
    return key;
  };
}

export const newKey = (): string => {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
};
