// The rollouts of an iteration: its groups, the members of each as strips of steps.
import { useState } from "preact/hooks";
import { counted } from "./format";
import { Key, Notes, Strip, outcome } from "./parts";
import { toGroup, toIteration, toSteps, toWhatIf } from "./route";
import type { Group, Iteration, RunPage } from "./types";

export function IterationNav({
  page,
  iteration,
  to,
}: {
  page: RunPage;
  iteration: number;
  to?: (iteration: number) => string;
}) {
  const at = page.transcripts.indexOf(iteration);
  const link = to ?? ((other: number) => toIteration(page.name, other));
  const [before, after] = [page.transcripts[at - 1], page.transcripts[at + 1]];
  return (
    <p class="bar">
      {before === undefined ? (
        <span class="soft">← older</span>
      ) : (
        <a href={link(before)} data-key="P">
          ← {before}
        </a>
      )}
      <label>
        iteration{" "}
        <select
          value={iteration}
          onChange={(event) => {
            location.hash = link(Number(event.currentTarget.value));
          }}
        >
          {page.transcripts.map((one) => (
            <option key={one} value={one}>
              {one}
            </option>
          ))}
        </select>
      </label>
      {after === undefined ? (
        <span class="soft">newer →</span>
      ) : (
        <a href={link(after)} data-key="N">
          {after} →
        </a>
      )}
    </p>
  );
}

export function GroupCard({ run, iteration, group }: { run: string; iteration: number; group: Group }) {
  const [marked, setMarked] = useState<number | null>(null);
  const won = group.members.filter((member) => member.won).length;
  return (
    <section class="box group">
      <h3 dir="auto">
        <a href={toGroup(run, iteration, group.group)}>{group.goal || `task group ${group.group}`}</a>
      </h3>
      <p class="small soft">
        {won} of {group.members.length} won · {group.task_type} · {group.task_id}
      </p>
      <div class="strip">
        {group.members.map((member) => (
          <>
            <span class="who">
              {member.member} <span class={member.won ? "yes" : "no"}>{outcome(member)}</span>,{" "}
              {counted(member.length, "step")}
            </span>
            <Strip run={run} iteration={iteration} group={group} member={member} marked={marked} onMark={setMarked} />
          </>
        ))}
      </div>
    </section>
  );
}

export function IterationView({ page, data }: { page: RunPage; data: Iteration }) {
  return (
    <>
      <IterationNav page={page} iteration={data.iteration} />
      <p class="bar">
        <a href={toSteps(page.name, `it=${data.iteration}..${data.iteration}`)}>filter its steps</a>{" "}
        <a href={toWhatIf(page.name, data.iteration)}>what if the fences were elsewhere?</a>
      </p>
      <Notes title="Missing" texts={data.remarks} />
      <p class="soft small">
        Training episodes. All members of a task group start in the same state, so their differences are the policy's
        own. Point at a cell to mark all steps in that situation.
      </p>
      <Key />
      {data.groups.map((group) => (
        <GroupCard key={group.group} run={page.name} iteration={data.iteration} group={group} />
      ))}
    </>
  );
}
