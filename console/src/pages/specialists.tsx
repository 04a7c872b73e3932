import { listSpecialists } from "../api/calls";
import { useLoad } from "../load";
import { link, may, words } from "../state";
import { Badge, Card, Head, LinkButton, Show } from "../ui/parts";

/** The domains, and what each can be asked. */
export function Specialists() {
  const w = words();
  const loaded = useLoad(listSpecialists, []);
  return (
    <>
      <Head title={w.specialists.title} intro={w.specialists.intro} />
      <Show of={loaded}>
        {(page) => (
          <div class="stack">
            {page.items.map((pack) => (
              <Card key={pack.id} title={<span lang="en" dir="ltr">{pack.title}</span>} note={<span lang="en" dir="auto">{pack.description}</span>}
                actions={may("trainer") && Object.keys(pack.models).length > 0 && <LinkButton small href={link("train", "new", "pack", pack.id, Object.keys(pack.models)[0] ?? "", Object.values(pack.models)[0]?.name ?? "")}>{w.specialists.make}</LinkButton>}>
                <ul class="list">
                  {Object.entries(pack.capabilities).map(([name, capability]) => {
                    const by = capability.by.classify ?? capability.by.generate;
                    const ready = !by || pack.models[by]?.deployed != null;
                    return (
                      <li key={name}>
                        <span>
                          <a href={link("specialists", pack.id, name)}><bdi lang="en">{name}</bdi></a>
                          <span class="muted" lang="en" dir="auto">{capability.description}</span>
                        </span>
                        <Badge tone={ready ? "good" : "quiet"}>{capability.by.rule ? w.specialists.byRules : capability.by.retrieve ? w.specialists.bySearch : ready ? w.specialists.byModel : w.specialists.needsModel}</Badge>
                      </li>
                    );
                  })}
                </ul>
              </Card>
            ))}
          </div>
        )}
      </Show>
    </>
  );
}
