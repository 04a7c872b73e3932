/** The frame of every page: navigation, language, appearance, who is signed in. */
import { useState } from "preact/hooks";
import type { ComponentType } from "preact";
import { Access } from "./pages/access";
import { Compare } from "./pages/compare";
import { Data } from "./pages/data";
import { Dataset } from "./pages/dataset";
import { Home } from "./pages/home";
import { Job } from "./pages/job";
import { Model } from "./pages/model";
import { Models } from "./pages/models";
import { Monitor } from "./pages/monitor";
import { SignIn } from "./pages/sign_in";
import { Specialist } from "./pages/specialist";
import { Specialists } from "./pages/specialists";
import { Train } from "./pages/train";
import { Try } from "./pages/try";
import type { Role } from "./api/shapes";
import type { Words } from "./i18n/en";
import { type Appearance, leave, link, may, setAppearance, setLanguage, useShared, words } from "./state";
import { Button, Head, Notice, Waiting } from "./ui/parts";

type View = ComponentType<{ path: string[] }>;
interface Place {
  name: keyof Words["nav"];
  role: Role;
  view: (path: string[]) => View;
}

const PLACES: readonly Place[] = [
  { name: "home", role: "viewer", view: () => Home },
  { name: "data", role: "viewer", view: (path) => (path[0] ? Dataset : Data) },
  { name: "train", role: "viewer", view: (path) => (path[0] === "compare" ? Compare : path[0] && path[0] !== "new" ? Job : Train) },
  { name: "models", role: "viewer", view: (path) => (path[0] ? Model : Models) },
  { name: "try", role: "user", view: () => Try },
  { name: "specialists", role: "viewer", view: (path) => (path[1] ? Specialist : Specialists) },
  { name: "monitor", role: "viewer", view: () => Monitor },
  { name: "access", role: "admin", view: () => Access },
];

export function App() {
  const { caller, entering, route } = useShared();
  const w = words();
  if (entering) return <main class="alone"><Waiting /></main>;
  if (!caller) return <SignIn />;
  const [first = "home", ...path] = route;
  const place = PLACES.find((each) => each.name === first);
  const View = place?.view(path);
  return (
    <div class="frame">
      <button class="skip" type="button" onClick={() => document.getElementById("main")?.focus()}>{w.skip}</button>
      <Navigation current={first} />
      <main id="main" tabIndex={-1}>
        {place && View && may(place.role) ? <View key={route.join("/")} path={path} /> : place ? <Notice kind="warn">{w.errors.role(place.role)}</Notice> : <Head title={w.errors.noPage} />}
      </main>
    </div>
  );
}

function Navigation({ current }: { current: string }) {
  const [open, setOpen] = useState(false);
  const { caller } = useShared();
  const w = words();
  return (
    <header class="side">
      <div class="brand">
        <a href={link()} class="logo"><img src={`${import.meta.env.BASE_URL}icon.svg`} alt="" width="28" height="28" />Soldiom</a>
        <button type="button" class="button menu" aria-expanded={open} aria-controls="navigation" onClick={() => setOpen(!open)}>{w.menu}</button>
      </div>
      <div id="navigation" class={open ? "open" : ""}>
        <nav aria-label={w.navigation}>
          <ul>
            {PLACES.filter((place) => may(place.role)).map((place) => (
              <li key={place.name}>
                <a href={link(place.name)} aria-current={place.name === current ? "page" : undefined} onClick={() => setOpen(false)}>
                  {w.nav[place.name]}
                </a>
              </li>
            ))}
          </ul>
        </nav>
        <div class="side-end">
          <Preferences />
          <p class="who"><strong dir="auto">{caller?.name}</strong><span class="muted">{caller && w.roles[caller.role]}</span></p>
          <Button small onClick={() => leave()}>{w.signOut}</Button>
        </div>
      </div>
    </header>
  );
}

export function Preferences() {
  const { language, appearance } = useShared();
  const w = words();
  return (
    <div class="preferences">
      <Button small lang={language === "ar" ? "en" : "ar"} onClick={() => setLanguage(language === "ar" ? "en" : "ar")}>{language === "ar" ? "English" : "العربية"}</Button>
      <label>
        <span class="unseen">{w.appearance}</span>
        <select class="small" value={appearance} onChange={(event) => setAppearance(event.currentTarget.value as Appearance)}>
          <option value="system">{w.appearances.system}</option>
          <option value="light">{w.appearances.light}</option>
          <option value="dark">{w.appearances.dark}</option>
        </select>
      </label>
    </div>
  );
}
