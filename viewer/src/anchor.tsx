// All visits of one state in an iteration: what was done there, what came of it, how sure the policy was.
import { useMemo } from "preact/hooks";
import { EntropyBar, Failure, outcome } from "./parts";
import { counted, num, signed } from "./format";
import { toGroup, toIteration, toStep } from "./route";
import { type Numbers, useTable } from "./table";
import type { Group, Member, RunPage, Step } from "./types";

interface Visit {
  member: Member;
  place: number;
  step: Step;
}

const mean = (values: (number | null)[]): number | null => {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
};

interface Seen {
  iteration: number;
  visits: number;
  won: number;
  entropy: number;
  returned: number;
}

/** The same state over the iterations, whatever the task group. */
function OverIterations({
  page,
  iteration,
  visit,
  group,
}: {
  page: RunPage;
  iteration: number;
  visit: Visit;
  group: Group;
}) {
  const { table } = useTable(page.name, page.version);
  const seen = useMemo(() => {
    const here = table?.find(iteration, group.group, visit.member.member, visit.place) ?? -1;
    const key = table?.at("anchor_key", here) ?? NaN;
    if (!table || Number.isNaN(key)) return [];
    const [keys, iterations, won, entropy, returned] = ["anchor_key", "iteration", "won", "entropy", "return"].map(
      (name) => table.column(name),
    ) as [Numbers, Numbers, Numbers, Numbers, Numbers];
    const found = new Map<number, Seen>();
    for (let row = 0; row < table.rows; row++) {
      if (keys[row] !== key) continue;
      const at = iterations[row]!;
      const one = found.get(at) ?? { iteration: at, visits: 0, won: 0, entropy: 0, returned: 0 };
      one.visits++;
      one.won += won[row] === 1 ? 1 : 0;
      one.entropy += entropy[row]!;
      one.returned += returned[row]!;
      found.set(at, one);
    }
    return [...found.values()].sort((a, b) => a.iteration - b.iteration);
  }, [table, iteration, visit, group]);
  if (seen.length < 2) return null;
  const shown = (value: number) => num(Number.isNaN(value) ? null : value);
  return (
    <section class="box wide spaced">
      <h3>The same state in {seen.length} iterations</h3>
      <table>
        <thead>
          <tr>
            <th class="r">iteration</th>
            <th class="r">visits</th>
            <th class="r">won</th>
            <th class="r">mean return</th>
            <th class="r">mean H</th>
          </tr>
        </thead>
        <tbody>
          {seen.map((one) => (
            <tr key={one.iteration}>
              <td class="r">
                <a href={toIteration(page.name, one.iteration)}>{one.iteration}</a>
              </td>
              <td class="r">{one.visits}</td>
              <td class="r">{one.won}</td>
              <td class="r">{shown(one.returned / one.visits)}</td>
              <td class="r">{shown(one.entropy / one.visits)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

export function AnchorView({
  page,
  iteration,
  group,
  anchor,
}: {
  page: RunPage;
  iteration: number;
  group: Group;
  anchor: number;
}) {
  const visits: Visit[] = group.members.flatMap((member) =>
    member.steps.flatMap((step, place) => (step.anchor_group === anchor ? [{ member, place, step }] : [])),
  );
  const first = visits[0];
  if (!first) return <Failure error={`Iteration ${iteration} has no step in state ${anchor} of this group.`} />;
  const actions = [...Map.groupBy(visits, (visit) => visit.step.action)].sort((a, b) => b[1].length - a[1].length);
  const entropies = visits.map((visit) => visit.step.normalized_entropy).filter((value) => value !== null);
  return (
    <>
      <h2>
        State {anchor}: {counted(visits.length, "visit")}
      </h2>
      <p class="small soft">
        Iteration {iteration},{" "}
        <a href={toGroup(page.name, iteration, group.group)} dir="auto">
          {group.goal}
        </a>
      </p>
      <section class="box">
        <h4>what was seen</h4>
        <pre class="text" dir="auto" tabIndex={0}>
          {first.step.observation}
        </pre>
      </section>
      <section class="box spaced">
        <h3>H_n of all visits, with the fences</h3>
        <EntropyBar
          step={{ ...first.step, normalized_entropy: null, outlier: null }}
          fences={group.fences}
          others={entropies}
        />
        <p class="small soft">
          H {num(Math.min(...visits.map((visit) => visit.step.entropy ?? Infinity)))} to{" "}
          {num(Math.max(...visits.map((visit) => visit.step.entropy ?? -Infinity)))} nats, mean{" "}
          {num(mean(visits.map((visit) => visit.step.entropy)))}
        </p>
      </section>
      <section class="box wide spaced">
        <h3>Actions taken here</h3>
        <table>
          <thead>
            <tr>
              <th>action</th>
              <th class="r">visits</th>
              <th class="r">won</th>
              <th class="r">mean return</th>
              <th class="r">mean A</th>
            </tr>
          </thead>
          <tbody>
            {actions.map(([action, some]) => (
              <tr key={action}>
                <td class="act" dir="auto">
                  {action || "(no action)"}
                </td>
                <td class="r">{some.length}</td>
                <td class="r">{some.filter((visit) => visit.member.won).length}</td>
                <td class="r">{num(mean(some.map((visit) => visit.step.return)))}</td>
                <td class="r">{signed(mean(some.map((visit) => visit.step.advantage)))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
      <OverIterations page={page} iteration={iteration} visit={first} group={group} />
      <section class="box wide spaced">
        <h3>Visits</h3>
        <table>
          <thead>
            <tr>
              <th>member</th>
              <th>step</th>
              <th class="r">return</th>
              <th class="r">A_S</th>
              <th class="r">H</th>
              <th class="r">H_n</th>
            </tr>
          </thead>
          <tbody>
            {visits.map(({ member, place, step }) => (
              <tr key={`${member.member}-${place}`}>
                <td>
                  {member.member} <span class={member.won ? "yes" : "no"}>{outcome(member)}</span>
                </td>
                <td>
                  <a dir="auto" href={toStep(page.name, iteration, group.group, member.member, place)}>
                    {step.step}: {step.action || "(no action)"}
                  </a>
                  {step.outlier && <span class={`tag ${step.outlier}`}>{step.outlier}</span>}
                </td>
                <td class="r">{num(step.return)}</td>
                <td class="r">{signed(step.step_advantage)}</td>
                <td class="r">{num(step.entropy)}</td>
                <td class="r">{signed(step.normalized_entropy)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
    </>
  );
}
