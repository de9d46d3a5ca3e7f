// Where the reader is, in the fragment of the address, so that every place can be linked to and "back" works.
import { useEffect, useState } from "preact/hooks";

export interface Route {
  page: "runs" | "run" | "settings" | "steps" | "iteration" | "group" | "step" | "overlay" | "anchor";
  runs: string[];
  iteration: number;
  group: number;
  member: number;
  step: number;
  /** What follows "?" in the fragment: filters. */
  query: URLSearchParams;
}

const START: Route = {
  page: "runs", runs: [], iteration: 0, group: 0, member: 0, step: 0, query: new URLSearchParams(),
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
  if (parts[0] !== "run" || !parts[1]) return { ...START, query };
  const route: Route = { ...START, page: "run", runs: [parts[1]], query };
  if (parts[2] === "settings" || parts[2] === "steps" || parts[2] === "anchor") return { ...route, page: parts[2] };
  const [iteration, group, member, step] = [number("it"), number("g"), number("m"), number("s")];
  if (iteration === null) return route;
  route.iteration = iteration;
  route.page = "iteration";
  if (group !== null) {
    route.group = group;
    route.page = "group";
    if (member !== null && step !== null) return { ...route, page: "step", member, step };
  }
  return route;
}

export const toRun = (run: string) => `#/run/${encodeURIComponent(run)}`;
export const toIteration = (run: string, iteration: number) => `${toRun(run)}/it/${iteration}`;
export const toGroup = (run: string, iteration: number, group: number) => `${toIteration(run, iteration)}/g/${group}`;
export const toStep = (run: string, iteration: number, group: number, member: number, step: number) =>
  `${toGroup(run, iteration, group)}/m/${member}/s/${step}`;

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
