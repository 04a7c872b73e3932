/** Data that a page shows: loaded when it opens, again while something is under way, and when asked. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks";

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

/** Something that a button starts: `run` shows it as under way and keeps what went wrong. */
export function useAction(): { busy: boolean; error: unknown; run: (act: () => Promise<void>) => void; clear: () => void } {
  const [state, setState] = useState<{ busy: boolean; error: unknown }>({ busy: false, error: undefined });
  const run = (act: () => Promise<void>) => {
    setState({ busy: true, error: undefined });
    act().then(
      () => setState({ busy: false, error: undefined }),
      (error: unknown) => setState({ busy: false, error }),
    );
  };
  return { ...state, run, clear: () => setState({ busy: false, error: undefined }) };
}

/** A text for `Idempotency-Key`: the same for repeats of one request. */
export const newKey = (): string => {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
};
