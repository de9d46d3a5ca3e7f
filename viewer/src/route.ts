// Where the reader is, in the fragment of the address, so that every place can be linked to and "back" works.
import { useEffect, useState } from "preact/hooks";

export interface Route {
  page:
    | "runs"
    | "run"
    | "settings"
    | "steps"
    | "iteration"
    | "group"
    | "step"
    | "overlay"
    | "anchor"
    | "whatif"
    | "diagnosis"
    | "comparison";
  runs: string[];
  iteration: number;
  group: number;
  member: number;
  step: number;
  anchor: number;
  /** What follows "?" in the fragment: filters. */
  query: URLSearchParams;
}

const START: Route = {
  page: "runs",
  runs: [],
  iteration: 0,
  group: 0,
  member: 0,
  step: 0,
  anchor: 0,
  query: new URLSearchParams(),
};

export function parse(hash: string): Route {
  const [path = "", words = ""] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  const query = new URLSearchParams(words);
  const number = (mark: string): number | null => {
    const at = parts.indexOf(mark, 2);
    const found = at < 0 ? NaN : Number(parts[at + 1]);
    return Number.isInteger(found) && found >= 0 ? found : null;
  };
  if (parts[0] === "overlay") return { ...START, page: "overlay", runs: parts.slice(1), query };
  if (parts[0] === "comparison" && parts[1]) return { ...START, page: "comparison", runs: [parts[1]], query };
  if (parts[0] !== "run" || !parts[1]) return { ...START, query };
  const route: Route = { ...START, page: "run", runs: [parts[1]], query };
  if (parts[2] === "settings" || parts[2] === "steps" || parts[2] === "diagnosis") return { ...route, page: parts[2] };
  const asked = number("whatif");
  if (asked !== null) return { ...route, page: "whatif", iteration: asked };
  const [iteration, group, member, step, anchor] = [number("it"), number("g"), number("m"), number("s"), number("a")];
  if (iteration === null) return route;
  route.iteration = iteration;
  route.page = "iteration";
  if (group !== null) {
    route.group = group;
    route.page = "group";
    if (anchor !== null) return { ...route, page: "anchor", anchor };
    if (member !== null && step !== null) return { ...route, page: "step", member, step };
  }
  return route;
}

export const toRun = (run: string) => `#/run/${encodeURIComponent(run)}`;
export const toComparison = (name: string) => `#/comparison/${encodeURIComponent(name)}`;
export const toIteration = (run: string, iteration: number) => `${toRun(run)}/it/${iteration}`;
export const toGroup = (run: string, iteration: number, group: number) => `${toIteration(run, iteration)}/g/${group}`;
export const toStep = (run: string, iteration: number, group: number, member: number, step: number) =>
  `${toGroup(run, iteration, group)}/m/${member}/s/${step}`;

export const toAnchor = (run: string, iteration: number, group: number, anchor: number) =>
  `${toGroup(run, iteration, group)}/a/${anchor}`;
export const toSteps = (run: string, words = "") => `${toRun(run)}/steps${words ? `?${words}` : ""}`;
export const toWhatIf = (run: string, iteration: number) => `${toRun(run)}/whatif/${iteration}`;
export const toOverlay = (runs: string[]) => `#/overlay/${runs.map(encodeURIComponent).join("/")}`;

/** Change the filters of the present page without a new entry in the history. */
export function replaceQuery(query: URLSearchParams): void {
  const words = query.toString();
  history.replaceState(null, "", `${location.hash.split("?")[0]}${words ? `?${words}` : ""}`);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export function go(hash: string): void {
  location.hash = hash;
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const follow = () => setRoute(parse(location.hash));
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}
