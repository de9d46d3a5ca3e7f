// The members of a group side by side, a row per visit of a state: where siblings part, and who won from there.
import { useMemo, useState } from "preact/hooks";
import { align, MOST_ALIGNED, partings } from "./align";
import { counted, signed } from "./format";
import { IterationNav } from "./iteration";
import { Badges, outcome } from "./parts";
import { toAnchor, toGroup, toStep } from "./route";
import { useTable } from "./table";
import type { Group, RunPage } from "./types";

/** The iterations in which the same task was played, on a slider. */
export function SameTask({ page, iteration, group }: { page: RunPage; iteration: number; group: Group }) {
  const { table } = useTable(page.name, page.version);
  const places = useMemo(() => {
    const code = table?.texts.task_id?.indexOf(group.task_id) ?? -1;
    if (!table || code < 1) return [];
    const [tasks, iterations, groups] = [table.column("task_id"), table.column("iteration"), table.column("group")];
    const found = new Map<number, number>();
    for (let row = 0; row < table.rows; row++)
      if (tasks[row] === code && !found.has(iterations[row]!)) found.set(iterations[row]!, groups[row]!);
    return [...found].sort((a, b) => a[0] - b[0]);
  }, [table, group.task_id]);
  const at = places.findIndex(([one]) => one === iteration);
  if (places.length < 2 || at < 0)
    return <p class="small soft">{table ? "This task was recorded in no other iteration." : ""}</p>;
  return (
    <label class="slider">
      this task over {places.length} iterations{" "}
      <input
        type="range"
        min="0"
        max={places.length - 1}
        value={at}
        aria-valuetext={`iteration ${iteration}`}
        onInput={(event) => {
          const place = places[Number(event.currentTarget.value)];
          if (place) location.hash = toGroup(page.name, place[0], place[1]);
        }}
      />{" "}
      iteration {iteration}
    </label>
  );
}

export function GroupView({ page, iteration, group }: { page: RunPage; iteration: number; group: Group }) {
  const [shared, setShared] = useState(false);
  const rows = useMemo(() => align(group.members), [group]);
  const shown = shared ? rows.filter((row) => row.steps.filter((step) => step !== null).length > 1) : rows;
  return (
    <>
      <IterationNav page={page} iteration={iteration} />
      <h2 dir="auto">{group.goal}</h2>
      <p class="small soft">
        {group.task_type} · {group.task_id}
      </p>
      <SameTask page={page} iteration={iteration} group={group} />
      <p class="bar">
        <span class="small soft">
          A row is a visit of one state, a column a member. Members in the same row stood in the same situation; where
          they did different things, they part.
        </span>
        {group.members.some((member) => member.length > MOST_ALIGNED) && (
          <b>The first {MOST_ALIGNED} steps of each member are shown.</b>
        )}
        <label>
          <input type="checkbox" checked={shared} onChange={(event) => setShared(event.currentTarget.checked)} /> only
          states that several visited
        </label>
      </p>
      <div class="aligned" tabIndex={0} role="region" aria-label="members side by side">
        <table>
          <thead>
            <tr>
              <th scope="col">state</th>
              {group.members.map((member) => (
                <th scope="col" key={member.member}>
                  {member.member}: <span class={member.won ? "yes" : "no"}>{outcome(member)}</span>
                  <div class="soft">
                    {counted(member.length, "step")}, score {member.score ?? "–"}
                  </div>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {shown.map((row, r) => {
              const ways = partings(group, row);
              const visitors = row.steps.filter((step) => step !== null).length;
              const first = group.members.flatMap((member, m) =>
                row.steps[m] === null ? [] : [member.steps[row.steps[m]!]],
              )[0];
              return (
                <tr key={r} class={visitors > 1 && ways.length > 1 ? "parting" : visitors > 1 ? "shared" : ""}>
                  <th scope="row">
                    {row.anchor !== null && (
                      <a href={toAnchor(page.name, iteration, group.group, row.anchor)}>state {row.anchor}</a>
                    )}
                    <p class="obs seen" dir="auto">
                      {first?.observation}
                    </p>
                    {visitors > 1 && ways.length > 1 && (
                      <ul class="ways">
                        {ways.map((way) => (
                          <li key={way.action}>
                            <b>
                              {way.won}/{way.members.length} won
                            </b>{" "}
                            <span dir="auto">{way.action || "(no action)"}</span>
                          </li>
                        ))}
                      </ul>
                    )}
                  </th>
                  {group.members.map((member, m) => {
                    const place = row.steps[m];
                    const step = place == null ? undefined : member.steps[place];
                    return (
                      <td key={member.member} class={step ? `here ${step.outlier ?? ""}` : ""}>
                        {step && place != null && (
                          <>
                            <a
                              class="act"
                              dir="auto"
                              href={toStep(page.name, iteration, group.group, member.member, place)}
                            >
                              &gt; {step.action || "(no action)"}
                            </a>
                            <div class="soft">
                              {step.step} · A {signed(step.advantage)} · H_n {signed(step.normalized_entropy)}
                            </div>
                            <Badges step={step} />
                          </>
                        )}
                      </td>
                    );
                  })}
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
    </>
  );
}
