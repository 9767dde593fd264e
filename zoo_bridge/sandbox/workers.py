"""What the server does later: its counts lag, by minutes of the sandbox's clock.

Creating subjects moves no count at all. Making or changing a set, a link or an unlink asks for a
new count of the set, which is made at most once in three minutes, and then of the workflows that
show it. Work that is due is done before the next call is answered.
"""

from __future__ import annotations

from zoo_bridge.sandbox.state import State

# Seconds between two runs of the same work.
PAUSES = {"set": 180.0, "refresh": 15.0, "subjects": 60.0, "retired": 10.0, "project": 10.0}


class Workers:
    """The queues of one sandbox.

    Parameters
    ----------
    state : State
        Where work and counts are kept.
    """

    def __init__(self, state: State) -> None:
        self.state = state

    def ask(self, kind: str, what: int) -> None:
        """Ask for work, unless it is waiting already."""
        state = self.state
        with state.write() as db:
            row = state.one("SELECT * FROM work WHERE kind = ? AND what = ?", (kind, what))
            if row and row["due"] is not None:
                return
            last = row["last_run"] if row else None
            due = max(state.time(), (last or 0.0) + PAUSES[kind])
            db.execute(
                "INSERT OR REPLACE INTO work VALUES (?, ?, ?, ?)",
                (kind, what, due, last),
            )

    def run(self) -> None:
        """Do what is due; what that asks for, too."""
        for _ in range(20):
            due = self.state.all(
                "SELECT * FROM work WHERE due IS NOT NULL AND due <= ? ORDER BY due",
                (self.state.time(),),
            )
            if not due:
                return
            for row in due:
                with self.state.write() as db:
                    db.execute(
                        "UPDATE work SET due = NULL, last_run = ? WHERE kind = ? AND what = ?",
                        (self.state.time(), row["kind"], row["what"]),
                    )
                    getattr(self, f"_{row['kind']}")(row["what"], row["due"])

    def _set(self, set_id: int, due: float) -> None:
        row = self.state.one("SELECT updated_at FROM subject_sets WHERE id = ?", (set_id,))
        if not row:
            return
        with self.state.write() as db:
            db.execute(
                "UPDATE subject_sets SET updated_at = ?, member_count ="
                " (SELECT COUNT(*) FROM set_subjects WHERE subject_set_id = ?) WHERE id = ?",
                (self.state.moved(row["updated_at"]), set_id, set_id),
            )
        for row in self.state.all(
            "SELECT workflow_id FROM workflow_sets WHERE subject_set_id = ?", (set_id,)
        ):
            self.ask("subjects", row["workflow_id"])

    def _refresh(self, workflow_id: int, due: float) -> None:
        with self.state.write() as db:
            db.execute("UPDATE workflows SET finished_at = NULL WHERE id = ?", (workflow_id,))
        self._subjects(workflow_id, due)
        self.ask("retired", workflow_id)

    def _subjects(self, workflow_id: int, due: float) -> None:
        """The sum of the sets' own counts, as they are; `updated_at` stays."""
        with self.state.write() as db:
            db.execute(
                "UPDATE workflows SET subjects_count = (SELECT COALESCE(SUM(member_count), 0)"
                " FROM subject_sets s JOIN workflow_sets w ON w.subject_set_id = s.id"
                " WHERE w.workflow_id = workflows.id) WHERE id = ?",
                (workflow_id,),
            )

    def _retired(self, workflow_id: int, due: float) -> None:
        """A subject in two linked sets counts twice, as on the real server."""
        state = self.state
        count = state.one(
            "SELECT COUNT(*) AS n FROM statuses t"
            " JOIN set_subjects m ON m.subject_id = t.subject_id"
            " JOIN workflow_sets w ON w.subject_set_id = m.subject_set_id"
            " AND w.workflow_id = t.workflow_id"
            " WHERE t.workflow_id = ? AND t.retired_at IS NOT NULL",
            (workflow_id,),
        )["n"]
        with state.write() as db:
            db.execute(
                "UPDATE workflows SET retired_count = ?, finished_at = CASE WHEN subjects_count > 0"
                " AND ? >= subjects_count THEN COALESCE(finished_at, ?) ELSE finished_at END"
                " WHERE id = ?",
                (count, count, state.stamp(due), workflow_id),
            )
        row = state.one("SELECT project_id FROM workflows WHERE id = ?", (workflow_id,))
        if row:
            self.ask("project", row["project_id"])

    def _project(self, project_id: int, due: float) -> None:
        """A project with nothing left to do is paused; it is touched when that changes."""
        row = self.state.one("SELECT * FROM projects WHERE id = ?", (project_id,))
        going_on = self.state.one(
            "SELECT 1 AS yes FROM workflows WHERE project_id = ? AND subjects_count > 0"
            " AND finished_at IS NULL",
            (project_id,),
        )
        now = "live" if going_on else "paused"
        if now != row["state"]:
            with self.state.write() as db:
                db.execute(
                    "UPDATE projects SET state = ?, updated_at = ? WHERE id = ?",
                    (now, self.state.moved(row["updated_at"]), project_id),
                )
