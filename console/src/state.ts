/** What the whole page shares: who is signed in, language, appearance, and where it is. */
import { useEffect, useState } from "preact/hooks";
import { whoAmI } from "./api/calls";
import { onRefusedKey, Problem, storedKey, storeKey } from "./api/client";
import type { Caller, Role } from "./api/shapes";
import { ar } from "./i18n/ar";
import { en, type Words } from "./i18n/en";
import { finishLogin, isAnswered } from "./login";

export type Language = "en" | "ar";
export type Appearance = "system" | "light" | "dark";

const ROLES: readonly Role[] = ["viewer", "user", "trainer", "admin"];

interface Shared {
  caller: Caller | null;
  /** Whether a stored key is being looked at. */
  entering: boolean;
  /** Why somebody who was signed in is asked again: the key has ended, the API did not answer, or a provider's login failed. */
  notice: "ended" | "unreachable" | "login" | null;
  /** What the provider said to that. */
  said: string;
  language: Language;
  appearance: Appearance;
  route: string[];
}

const remembered = (name: string): string | null => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
};
const remember = (name: string, value: string): void => {
  try {
    localStorage.setItem(name, value);
  } catch {
    // without storage a choice lasts as long as the page
  }
};

/** The address's parts. What is no encoding of anything stands for itself: an address that somebody mistyped is a page that
 * does not exist, no error. */
const parts = (): string[] => location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map((part) => {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
});

const shared: Shared = {
  caller: null,
  entering: storedKey() !== null || isAnswered(),
  notice: null,
  said: "",
  language: (remembered("soldiom.language") ?? navigator.language).startsWith("ar") ? "ar" : "en",
  appearance: (remembered("soldiom.appearance") as Appearance | null) ?? "system",
  route: parts(),
};
const listeners = new Set<() => void>();

function change(values: Partial<Shared>): void {
  Object.assign(shared, values);
  dress();
  for (const listener of listeners) listener();
}

/** Language, direction and appearance of the document. */
export function dress(): void {
  const root = document.documentElement;
  root.lang = shared.language;
  root.dir = shared.language === "ar" ? "rtl" : "ltr";
  if (shared.appearance === "system") delete root.dataset.theme;
  else root.dataset.theme = shared.appearance;
}

export function useShared(): Readonly<Shared> {
  const [, redraw] = useState(0);
  useEffect(() => {
    const listener = () => redraw((count) => count + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return shared;
}

export const words = (): Words => (shared.language === "ar" ? ar : en);
export const language = (): Language => shared.language;
export const may = (role: Role): boolean =>
  shared.caller !== null && ROLES.indexOf(shared.caller.role) >= ROLES.indexOf(role);
/** Whether what this owner made is the caller's to share: its owner's or an admin's. */
export const owns = (owner: string): boolean => may("admin") || (shared.caller !== null && shared.caller.user === owner);

export function setLanguage(value: Language): void {
  remember("soldiom.language", value);
  change({ language: value });
}

export function setAppearance(value: Appearance): void {
  remember("soldiom.appearance", value);
  change({ appearance: value });
}

/** The owner of a key that the API takes; the key is kept for this tab. */
export async function enter(key: string): Promise<void> {
  const caller = await whoAmI(key);
  storeKey(key);
  change({ caller, entering: false, notice: null });
}

export function leave(notice: Shared["notice"] = null): void {
  storeKey(null);
  change({ caller: null, entering: false, notice });
}

/** Enter with the token of a login that has just ended, or with the key that this tab has, if it has one. */
export async function resume(): Promise<void> {
  try {
    const token = await finishLogin();
    if (token) {
      await enter(token);
      return change({ route: parts() });
    }
  } catch (error) {
    return change({ entering: false, notice: "login", said: error instanceof Problem ? error.detail : "" });
  }
  const key = storedKey();
  if (!key) return change({ entering: false });
  change({ entering: true });
  try {
    await enter(key);
  } catch (error) {
    if (error instanceof Problem && error.status === 401) leave("ended");
    else change({ entering: false, notice: "unreachable" });
  }
}

export const link = (...path: string[]): string => `#/${path.map(encodeURIComponent).join("/")}`;
export const go = (...path: string[]): void => {
  location.hash = link(...path);
};

export function listen(): void {
  onRefusedKey.call = () => leave("ended");
  addEventListener("hashchange", () => {
    change({ route: parts() });
    document.getElementById("main")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  });
}
