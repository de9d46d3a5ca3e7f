// The keyboard: n/p step, N/P iteration, f filters, / search, ? this help. Links say with data-key what they are for.
import { useEffect, useRef } from "preact/hooks";
import { go, parse, toRun } from "./route";

const HELP: [string, string][] = [
  ["n, p", "next and previous step: of the selection where there is one, else of the episode"],
  ["N, P", "next and previous iteration"],
  ["f", "filters: all steps of the run"],
  ["/", "search"],
  ["c", "copy the step as JSON"],
  ["?", "this help"],
  ["Esc", "close; leave a field"],
];

export function Keys() {
  const help = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      const typing = target.matches("input:not([type=checkbox], [type=radio]), select, textarea");
      if (event.key === "Escape" && typing) return target.blur();
      if (typing || event.ctrlKey || event.metaKey || event.altKey || help.current?.open) return;
      const focus = (mark: string) => document.querySelector<HTMLElement>(`[${mark}]`)?.focus();
      if ("npNPc".includes(event.key)) document.querySelector<HTMLElement>(`[data-key="${event.key}"]`)?.click();
      else if (event.key === "?") help.current?.showModal();
      else if (event.key === "/" || event.key === "f") {
        const mark = event.key === "/" ? "data-search" : "data-filter";
        const { page, runs } = parse(location.hash);
        if (!document.querySelector(`[${mark}]`) && runs[0] && page !== "comparison") {
          go(`${toRun(runs[0])}/steps`);
          const wait = new MutationObserver(
            () => document.querySelector(`[${mark}]`) && (wait.disconnect(), focus(mark)),
          );
          wait.observe(document.body, { childList: true, subtree: true });
          setTimeout(() => wait.disconnect(), 10_000);
        } else focus(mark);
      } else return;
      event.preventDefault();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
  return (
    <>
      <button class="link" aria-label="keyboard" onClick={() => help.current?.showModal()}>
        ?
      </button>
      <dialog ref={help} aria-label="Keyboard">
        <h3>Keyboard</h3>
        <dl class="facts">
          {HELP.map(([key, what]) => [
            <dt key={key}>
              <kbd>{key}</kbd>
            </dt>,
            <dd key={what}>{what}</dd>,
          ])}
        </dl>
        <form method="dialog">
          <button>Close</button>
        </form>
      </dialog>
    </>
  );
}
