/** Numbers, times and sizes in the reader's language; figures stay Latin, as the API writes them. */
import { language } from "./state";

const locale = () => (language() === "ar" ? "ar-u-nu-latn" : "en");

export const number = (value: number, digits = 0): string =>
  new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value);

/** A metric's value: three figures that matter. */
export const metric = (value: number | null | undefined): string =>
  value === null || value === undefined || !Number.isFinite(value)
    ? "–"
    : new Intl.NumberFormat(locale(), { maximumSignificantDigits: Math.abs(value) >= 1000 ? 4 : 3 }).format(value);

export const signed = (value: number): string =>
  new Intl.NumberFormat(locale(), { maximumSignificantDigits: 3, signDisplay: "exceptZero" }).format(value);

export const percent = (share: number): string =>
  new Intl.NumberFormat(locale(), { style: "percent", maximumFractionDigits: 0 }).format(share);

export function bytes(value: number): string {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const step = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(value) / 3));
  return new Intl.NumberFormat(locale(), {
    style: "unit", unit: units[step] ?? "byte", unitDisplay: "short", maximumFractionDigits: step ? 1 : 0,
  }).format(value / 1000 ** step);
}

export function duration(seconds: number): string {
  const unit = seconds < 100 ? "second" : seconds < 5400 ? "minute" : "hour";
  const value = seconds / { second: 1, minute: 60, hour: 3600 }[unit];
  return new Intl.NumberFormat(locale(), {
    style: "unit", unit, unitDisplay: "short", maximumFractionDigits: value < 10 ? 1 : 0,
  }).format(value);
}

export const moment = (iso: string): string =>
  new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso));

export function ago(iso: string): string {
  const seconds = (Date.now() - new Date(iso).getTime()) / 1000;
  const format = new Intl.RelativeTimeFormat(locale(), { numeric: "auto" });
  if (seconds < 60) return format.format(0, "minute");
  if (seconds < 3600) return format.format(-Math.floor(seconds / 60), "minute");
  if (seconds < 86_400) return format.format(-Math.floor(seconds / 3600), "hour");
  return seconds < 604_800 ? format.format(-Math.floor(seconds / 86_400), "day") : moment(iso);
}

export const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Names of groups and paths as a person reads them: files that were uploaded stand for themselves. */
export const readable = (name: string): string =>
  name.replace(/input\/[0-9a-f-]{36}#(row \d+)\/(\S+)/g, "$2 $1").replace(/input\/[0-9a-f-]{36}[#/]/g, "");
