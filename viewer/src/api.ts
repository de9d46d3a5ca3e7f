// Requests to the server, and hooks that keep their answers up to date.
import { useEffect, useState } from "preact/hooks";
import type { RunPage } from "./types";

/** The token of the address that `stapo view` printed; kept for this tab only. */
function token(): string | null {
  const given = /[#&]token=([^&]+)/.exec(location.hash);
  if (given?.[1]) {
    sessionStorage.setItem("token", decodeURIComponent(given[1]));
    history.replaceState(null, "", "#/");
  }
  return sessionStorage.getItem("token");
}

export type Query = Record<string, string | number>;

async function ask(path: string, query: Query): Promise<Response> {
  const words = new URLSearchParams(Object.entries(query).map(([key, value]) => [key, String(value)]));
  const known = token();
  let response: Response;
  try {
    response = await fetch(`/api/${path}?${words}`, known ? { headers: { Authorization: `Bearer ${known}` } } : {});
  } catch {
    throw new Error("The server does not answer. Is 'stapo view' still running?");
  }
  if (!response.ok) {
    const body = (await response.json().catch(() => null)) as { error?: string } | null;
    throw new Error(body?.error ?? `The server answered with status ${response.status}.`);
  }
  return response;
}

export async function get<T>(path: string, query: Query = {}): Promise<T> {
  return (await (await ask(path, query)).json()) as T;
}

export async function getText(path: string, query: Query): Promise<string> {
  return (await ask(path, query)).text();
}

export async function getBytes(path: string, query: Query): Promise<ArrayBuffer> {
  return (await ask(path, query)).arrayBuffer();
}

export interface Loaded<T> {
  data: T | null;
  error: string;
}

/** The answer to a request, asked for again whenever the request or `again` changes; the old one stays meanwhile. */
export function useGet<T>(path: string, query: Query, again: unknown = 0): Loaded<T> {
  const [state, setState] = useState<Loaded<T> & { key: string }>({ key: "", data: null, error: "" });
  const key = `${path}?${JSON.stringify(query)}`;
  useEffect(() => {
    let wanted = true;
    get<T>(path, query).then(
      (data) => wanted && setState({ key, data, error: "" }),
      (error: Error) =>
        wanted && setState((old) => ({ key, data: old.key === key ? old.data : null, error: error.message })),
    );
    return () => {
      wanted = false;
    };
  }, [key, again]);
  return state.key === key ? state : { data: null, error: "" };
}

const POLL_MS = 2000;

/** Calls `look` every two seconds while the tab is visible. */
export function usePoll(look: () => void, deps: unknown[]): void {
  useEffect(() => {
    const timer = setInterval(() => {
      if (!document.hidden) look();
    }, POLL_MS);
    return () => clearInterval(timer);
  }, deps);
}

/** The version of a run's files; changes whenever there is something new. */
export function useVersion(run: string): { version: string; status: string } {
  const [state, setState] = useState({ version: "", status: "" });
  const look = () => {
    get<{ version: string; status: string }>("version", { run }).then(
      (found) => setState((old) => (old.version === found.version && old.status === found.status ? old : found)),
      () => undefined,
    );
  };
  useEffect(look, [run]);
  usePoll(look, [run]);
  return state;
}

/** A run, asked for again whenever its files have something new. */
export function useRun(name: string): Loaded<RunPage> & { status: string } {
  const live = useVersion(name);
  const [known, setKnown] = useState("");
  const { data, error } = useGet<RunPage>("run", { run: name }, known);
  useEffect(() => {
    if (live.version && live.version !== data?.version && (data || error)) setKnown(live.version);
  }, [live.version, data, error]);
  return { data, error, status: live.status || data?.status || "" };
}
