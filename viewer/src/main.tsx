// The pages of `stapo view`. Text of models and environments only ever becomes text nodes: nothing here writes HTML.
import { render } from "preact";
import type { ComponentChildren } from "preact";
import { useEffect, useErrorBoundary } from "preact/hooks";
import { useGet, useRun } from "./api";
import { AnchorView } from "./anchor";
import { GroupView } from "./group";
import { IterationView } from "./iteration";
import { Keys } from "./keys";
import { Overlay } from "./overlay";
import { Failure } from "./parts";
import { type Route, toIteration, toRun, toSteps, useRoute } from "./route";
import { Overview, Settings } from "./run";
import { ComparisonView, DiagnosisView } from "./results";
import { Runs } from "./runs";
import { StepView } from "./step";
import { StepsView } from "./steps";
import { useTable } from "./table";
import type { Group, Iteration, RunPage } from "./types";
import { WhatIf } from "./whatif_view";

/** A group that did not fit on the page of its iteration. */
const NOBODY: Group = { group: 0, goal: "", task_id: "", task_type: "", fences: null, members: [] };

function Rollouts({ page, route }: { page: RunPage; route: Route }) {
  const query = { run: page.name, iteration: route.iteration };
  const { data, error } = useGet<Iteration>("iteration", query, page.version);
  if (!data) return <Failure error={error} />;
  if (route.page === "iteration") return <IterationView page={page} data={data} />;
  const listed = data.groups.find((one) => one.group === route.group);
  const group = listed ?? (route.page === "step" ? { ...NOBODY, group: route.group } : undefined);
  if (!group) return <Failure error={`Iteration ${route.iteration} has no rollouts of group ${route.group}.`} />;
  if (route.page === "group") return <GroupView page={page} iteration={route.iteration} group={group} />;
  if (route.page === "anchor")
    return <AnchorView page={page} iteration={route.iteration} group={group} anchor={route.anchor} />;
  return (
    <StepView
      page={page}
      iteration={route.iteration}
      group={group}
      member={route.member}
      step={route.step}
      query={route.query}
    />
  );
}

function Run({ route }: { route: Route }) {
  const name = route.runs[0] ?? "";
  const { data: page, error, status } = useRun(name);
  // The columns are on their way while the run is still being read.
  useTable(name, page?.version ?? "", route.page === "steps");
  useEffect(() => {
    document.title = `${name} · stapo view`;
  }, [name]);
  if (!page)
    return (
      <main>
        <h1>{name}</h1>
        <Failure error={error} />
        {!error && <p class="soft">Reading …</p>}
      </main>
    );
  const tab = (label: string, href: string, current: boolean) => (
    <a href={href} aria-current={current ? "page" : undefined}>
      {label}
    </a>
  );
  const newest = page.transcripts.at(-1);
  return (
    <main>
      <h1>{page.title}</h1>
      <p class="soft">
        {name} <span class={`status ${status}`}>{status}</span>
      </p>
      <nav class="tabs" aria-label="Run">
        {tab("Overview", toRun(name), route.page === "run")}
        {newest !== undefined &&
          tab(
            "Rollouts",
            toIteration(name, newest),
            ["iteration", "group", "step", "anchor", "whatif"].includes(route.page),
          )}
        {newest !== undefined && tab("Steps", toSteps(name), route.page === "steps")}
        {tab("Diagnosis", `${toRun(name)}/diagnosis`, route.page === "diagnosis")}
        {tab("Settings", `${toRun(name)}/settings`, route.page === "settings")}
      </nav>
      <Failure error={error} />
      {route.page === "run" ? (
        <Overview page={page} />
      ) : route.page === "settings" ? (
        <Settings page={page} />
      ) : route.page === "steps" ? (
        <StepsView page={page} query={route.query} />
      ) : route.page === "diagnosis" ? (
        <DiagnosisView run={name} />
      ) : route.page === "whatif" ? (
        <WhatIf page={page} iteration={route.iteration} />
      ) : (
        <Rollouts page={page} route={route} />
      )}
    </main>
  );
}

/** A page that meets data of another form says so; the rest of the viewer goes on. */
function Guarded({ children }: { children: ComponentChildren }) {
  const [error] = useErrorBoundary();
  return error ? (
    <main>
      <Failure
        error={`This page cannot show what the run holds: ${(error as Error).message}. Files that other programs have changed may be of another form.`}
      />
    </main>
  ) : (
    <>{children}</>
  );
}

function App() {
  const route = useRoute();
  return (
    <>
      <header class="top">
        <a href="#/">stapo view</a>
        <Keys />
      </header>
      <Guarded key={JSON.stringify([route.page, route.runs])}>
        {route.page === "runs" ? (
          <Runs />
        ) : route.page === "overlay" ? (
          <Overlay key={route.runs.join("/")} names={route.runs} />
        ) : route.page === "comparison" ? (
          <ComparisonView key={route.runs[0]} name={route.runs[0] ?? ""} />
        ) : (
          <Run key={route.runs[0]} route={route} />
        )}
      </Guarded>
    </>
  );
}

const root = document.getElementById("app");
if (root) {
  root.replaceChildren();
  render(<App />, root);
}
