import { useAction } from "../load";
import { owns, words } from "../state";
import { Button, ErrorBox } from "./parts";

/** For the owner of something, and for admins: whether all of the tenant see it. */
export function Sharing({ of, set, onChange }: {
  of: { owner: string; shared: boolean }; set: (shared: boolean) => Promise<unknown>; onChange: () => void;
}) {
  const w = words();
  const act = useAction();
  if (!owns(of.owner)) return null;
  const toggle = () => act.run(async () => {
    await set(!of.shared);
    onChange();
  });
  return (
    <>
      <Button kind="plain" busy={act.busy} onClick={toggle}>{of.shared ? w.sharing.hide : w.sharing.share}</Button>
      <ErrorBox error={act.error} />
    </>
  );
}
