// The pages of `stapo view`. Text of models and environments only ever becomes text nodes: nothing here writes HTML.
import { render } from "preact";
import { useEffect } from "preact/hooks";
import { useGet, useVersion } from "./api";
import { GroupView } from "./group";
import { IterationView } from "./iteration";
import { Failure } from "./parts";
import { type Route, toRun, useRoute } from "./route";
import { Overview, Settings } from "./run";
import { Runs } from "./runs";
import { StepView } from "./step";
import type { Iteration, RunPage } from "./types";

function Rollouts({ page, route }: { page: RunPage; route: Route }) {
  const query = { run: page.name, iteration: route.iteration };
  const { data, error } = useGet<Iteration>("iteration", query, page.version);
  if (!data) return <Failure error={error} />;
  if (route.page === "iteration") return <IterationView page={page} data={data} />;
  const group = data.groups.find((one) => one.group === route.group);
  if (!group) return <Failure error={`Iteration ${route.iteration} has no rollouts of group ${route.group}.`} />;
  if (route.page === "group") return <GroupView page={page} iteration={route.iteration} group={group} />;
  return <StepView page={page} iteration={route.iteration} group={group} member={route.member} step={route.step} />;
}

function Run({ route }: { route: Route }) {
  const name = route.runs[0] ?? "";
  const live = useVersion(name);
  const { data: page, error } = useGet<RunPage>("run", { run: name }, live.version);
  useEffect(() => {
    document.title = `${name} · stapo view`;
  }, [name]);
  if (!page) return <main><h1>{name}</h1><Failure error={error} />{!error && <p class="soft">Reading …</p>}</main>;
  const status = live.status || page.status;
  const tab = (label: string, href: string, current: boolean) => <a href={href} aria-current={current ? "page" : undefined}>{label}</a>;
  const newest = page.transcripts.at(-1);
  return (
    <main>
      <h1>{page.title}</h1>
      <p class="soft">{name} <span class={`status ${status}`}>{status}</span></p>
      <nav class="tabs" aria-label="Run">
        {tab("Overview", toRun(name), route.page === "run")}
        {newest !== undefined && tab("Rollouts", `${toRun(name)}/it/${newest}`, ["iteration", "group", "step"].includes(route.page))}
        {tab("Settings", `${toRun(name)}/settings`, route.page === "settings")}
      </nav>
      <Failure error={error} />
      {route.page === "run" ? <Overview page={page} /> : route.page === "settings" ? <Settings page={page} /> : <Rollouts page={page} route={route} />}
    </main>
  );
}

function App() {
  const route = useRoute();
  return (
    <>
      <header class="top"><a href="#/">stapo view</a></header>
      {route.page === "runs" || route.page === "overlay" ? <Runs /> : <Run key={route.runs[0]} route={route} />}
    </>
  );
}

const root = document.getElementById("app");
if (root) {
  root.replaceChildren();
  render(<App />, root);
}
