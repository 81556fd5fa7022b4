"""What `python -m tests.mutants` breaks: room by room, and the tests that have to notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One edit: `old`, which is in the file exactly once, becomes `new`.

    `tests` are files below `tests/`, each with -k and parts of names.
    """

    file: str
    broken: str
    old: str
    new: str
    tests: tuple[str, ...]


SESSION = "db/engine/session.py"
FRAME = "db/engine/frame.py"
RUNNER = "db/engine/runner.py"
SENDER = "db/engine/sender.py"
ACCOUNT = "db/engine/account.py"
CHECK = "db/engine/check.py"
UNITS = "db/engine/units.py"
LEDGER = "db/engine/ledger.py"
WAITING = "db/engine/waiting.py"
WATCH = "db/server/watch.py"
AHEAD = "db/server/ahead.py"
PIPELINE = "db/server/pipeline.py"
CONNECTION = "db/server/connection.py"
DESCRIBED = "db/server/described.py"
PLAN = "db/files/plan.py"
ROLLBACK = "db/engine/rollback.py"
SURVEY = "db/engine/survey.py"
RECOVERY = "db/engine/recovery.py"
POSTMASTER = "db/server/postmaster.py"
DUMP = "db/commands/dump.py"
ROWS = "db/commands/rows.py"
SIZES = "db/rehearsal/sizes.py"
EFFECTS = "db/sql/effects.py"
PG_DUMP = "db/server/pg_dump.py"
BATCHES = "db/engine/batches.py"
PACE = "db/engine/pace.py"
CREW = "db/fleets/crew.py"
FLEET = "db/commands/fleet.py"
PAUSES = "db/pauses.py"
PLACE = "db/engine/place.py"
OURS = "db/server/ours.py"
MEASURED = "db/rehearsal/measured.py"
FINDINGS = "db/rehearsal/findings.py"
GATE = "db/rehearsal/outside.py"
OUTSIDE = "db/engine/outside.py"
PROGRESS = "db/engine/progress.py"
RESUME = "db/engine/resume.py"
TARGETS = "db/engine/targets.py"
TRACES = "db/sql/traces.py"
TRANSACTION = "db/engine/transaction.py"
SETTINGS = "db/settings.py"
URLS = "db/urls.py"
DUMP_CHECK = "db/commands/dump_check.py"


def dump(names: str) -> str:
    return f"scenarios/test_dump.py -k '{names}'"


def ends(names: str) -> str:
    return f"scenarios/test_ends.py -k '{names}'"


def fleet(names: str) -> str:
    return f"scenarios/test_fleet.py -k '{names}'"


def sessions(names: str) -> str:
    return f"scenarios/test_sessions.py -k '{names}'"


def moments(names: str) -> str:
    return f"scenarios/test_moments.py -k '{names}'"


def engine(names: str) -> str:
    return f"scenarios/test_engine.py -k '{names}'"


def outside(names: str) -> str:
    return f"scenarios/test_outside.py -k '{names}'"


def batches(names: str) -> str:
    return f"scenarios/test_batches.py -k '{names}'"


def everyday(names: str) -> str:
    return f"scenarios/test_everyday.py -k '{names}'"


def faults(names: str) -> str:
    return f"scenarios/test_faults.py -k '{names}'"


def main_job(names: str) -> str:
    return f"scenarios/test_main_job.py -k '{names}'"


def advice(names: str) -> str:
    return f"scenarios/test_advice.py -k '{names}'"


def security(names: str) -> str:
    return f"scenarios/test_security.py -k '{names}'"


def embedded(names: str) -> str:
    return f"test_embedded.py -k '{names}'"


def half_done(names: str) -> str:
    return f"scenarios/test_half_done.py -k '{names}'"


def rehearsal(names: str) -> str:
    return f"scenarios/test_rehearse.py -k '{names}'"


def ours(names: str) -> str:
    return f"scenarios/test_ours.py -k '{names}'"


def units(names: str) -> str:
    return f"scenarios/test_units.py -k '{names}'"


def trust(names: str) -> str:
    return f"scenarios/test_trust.py -k '{names}'"


def records(names: str) -> str:
    return f"scenarios/test_records.py -k '{names}'"


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        SESSION,
        "a session whose link was lost is left to itself",
        "            ours.ask(self.conn, _END, [lost.name, guard_of(lost.name)])",
        "            pass",
        (moments("server_still_keeps"),),
    ),
    Mutant(
        SESSION,
        "only the worker of a lost session is ended, not its guard",
        "       OR pg_catalog.starts_with(application_name, %s))",
        "       OR false AND pg_catalog.starts_with(application_name, %s))",
        (moments("guard_is_ended"),),
    ),
    Mutant(
        SESSION,
        "a connection that breaks at once is given up",
        "_TRIES = 3",
        "_TRIES = 1",
        (moments("breaks_before"),),
    ),
    Mutant(
        SESSION,
        "after a failure the session keeps what outlives its transaction",
        '        self.conn.execute("DISCARD ALL")',
        "        pass",
        (moments("between_two_attempts"),),
    ),
    Mutant(
        SESSION,
        "the notices of a file are all kept",
        "_NOTICES = 20 ",
        "_NOTICES = 20_000 ",
        (moments("many_notices"),),
    ),
    Mutant(
        SESSION,
        "the first notices of a file are kept, not the latest",
        "[*self.notices, diagnostic(said)][-_NOTICES:]",
        "[*self.notices, diagnostic(said)][:_NOTICES]",
        (moments("many_notices"),),
    ),
    Mutant(
        FRAME,
        "no file has a lock_timeout",
        "str(general if own is None else own)",
        '"0"',
        (engine("queue_the_application or timeouts_of_one"),),
    ),
    Mutant(
        FRAME,
        "the directive lock-timeout is not heeded",
        "str(general if own is None else own)",
        "str(general)",
        (engine("timeouts_of_one"),),
    ),
    Mutant(
        FRAME,
        "the directive statement-timeout is not heeded",
        "    if directives.statement_timeout_ms is not None:",
        "    if False:",
        (engine("timeouts_of_one"),),
    ),
    Mutant(
        FRAME,
        "the server is not told to look for its client",
        "    for name, value in VANISHED.items():\n"
        "        yield from _known(session, name, value, running)\n",
        "",
        (engine("machine_of_its_client or client_is_gone"),),
    ),
    Mutant(
        FRAME,
        "every commit waits for the disk",
        "    if not flush:",
        "    if False:",
        (engine("only_the_last_commit"),),
    ),
    Mutant(
        FRAME,
        "objects belong to who logs in, not to MIGRATIONS_ROLE",
        '        yield Command(b"SET LOCAL ROLE " + name, "role", running)',
        "        return",
        (engine("role_owns"),),
    ),
    Mutant(
        SESSION,
        "what a statement waits for is not looked at",
        "        if self.guard and not self._blind:",
        "        if False:",
        (engine("long_index_build or names_the_blocker"),),
    ),
    Mutant(
        SESSION,
        "a long statement shows no progress",
        "            yield Progress(running.filename, elapsed_s, phase, percent, self.blockers)",
        "            pass",
        (engine("long_index_build"),),
    ),
    Mutant(
        SESSION,
        "what a file sets for its role or database does not meet the next file",
        "        if any(traces.kept for traces in self._met):",
        "        if self.suspect:",
        (moments("next_session_is_given"),),
    ),
    Mutant(
        SESSION,
        "what an attempt that failed has left in its session stays for the next one",
        "            self._met.append(running.traces)",
        "            _ = running.traces",
        (sessions("failed_attempt"),),
    ),
    Mutant(
        SESSION,
        "what the functions of a database leave in a session is not looked for",
        "                ((self._keepers,),) = ours.ask(self.conn, _KEEPERS, [list(KEPT)])",
        "                self._keepers = False",
        (sessions("leaves_in_its_session"),),
    ),
    Mutant(
        TRACES,
        "a setting that a file invents stays empty for the next one",
        '        return b"." in begin',
        "        return False",
        (sessions("leaves_in_its_session"),),
    ),
    Mutant(
        TRANSACTION,
        "the disk is not waited for at the end of a run that failed or was interrupted",
        "        ours.execute(session.conn, queries, lock_timeout_ms=session.lock_timeout_ms)",
        "        pass",
        (moments("outlives_a_crash"),),
    ),
    Mutant(
        TRANSACTION,
        "a file is not claimed before it runs",
        "    yield claim\n",
        "",
        (
            engine("each_file_once"),
            main_job("second_run"),
        ),
    ),
    Mutant(
        TRANSACTION,
        "a file is not claimed first",
        "    yield claim\n"
        "    yield from frame.role(session, running)\n"
        "    for found in script.body():\n"
        "        command = statement(running, found)\n"
        "        yield command\n",
        "    yield from frame.role(session, running)\n"
        "    for found in script.body():\n"
        "        command = statement(running, found)\n"
        "        yield command\n"
        "        if found.end >= max(s.end for s in script.body()):\n"
        "            yield claim\n",
        (moments("however_long"),),
    ),
    Mutant(
        TRANSACTION,
        "a file's role is in force when its row is completed",
        "    yield Command(_OURSELVES, about=running)\n",
        "",
        (engine("role_owns or nothing_leaks"),),
    ),
    Mutant(
        TRANSACTION,
        "what a file leaves in its session meets the next one",
        '    yield Command(b"DISCARD ALL", about=running)\n',
        "",
        (engine("nothing_leaks"),),
    ),
    Mutant(
        TRANSACTION,
        "a file that takes its own row away counts as executed",
        "1 OPERATOR(pg_catalog./) (checksum IS NOT NULL)::integer",
        "1",
        (moments("ledger_itself"),),
    ),
    Mutant(
        TRANSACTION,
        "a file may switch off that its commit waits for the disk",
        "        yield from frame.durable(session, running)",
        "        pass",
        (moments("switch_durability_off"),),
    ),
    Mutant(
        SENDER,
        "every file commits unflushed, the last one too",
        "flush = self._settings.sync_each or file.migration is last",
        "flush = self._settings.sync_each",
        (engine("only_the_last_commit"),),
    ),
    Mutant(
        SENDER,
        "MIGRATIONS_SYNC=each is not heeded",
        "flush = self._settings.sync_each or ",
        "flush = ",
        (engine("only_the_last_commit"),),
    ),
    Mutant(
        ACCOUNT,
        "a commit whose answer was lost is not reported",
        "                yield from self.done(filename, (row and row.duration_ms) or 0)",
        "                pass",
        (moments("answer_was_lost"),),
    ),
    Mutant(
        RUNNER,
        "a file that another run has executed is a failure",
        "                if running.migration not in todo:\n                    names",
        "                if False:\n                    names",
        (
            moments("however_long"),
            engine("each_file_once"),
        ),
    ),
    Mutant(
        RUNNER,
        "what was surveyed before a wait is executed",
        "            yield from self._look(again=True)\n",
        "",
        (
            faults("dropped_between_plan"),
            engine("waiting_runner"),
        ),
    ),
    Mutant(
        SENDER,
        "a file that changes while the run goes on is executed",
        "        if script.checksum != migration.checksum:",
        "        if False:",
        (faults("folder_that_changes"),),
    ),
    Mutant(
        SENDER,
        "what a pooled connection holds meets the first file",
        '            session.pipe.send(Command(b"DISCARD ALL"))  # what a pooled connection may hold\n',
        "",
        (moments("pooled_connection_holds"),),
    ),
    Mutant(
        RUNNER,
        "a lost connection is an error",
        "                gone = error\n",
        "                raise self._unusable(error) from None\n",
        (engine("terminated_backend or restarted"),),
    ),
    Mutant(
        RUNNER,
        "a broken file is refused only when its turn comes",
        "        refuse(refused, ",
        "        refuse([], ",
        (engine("refused_before_anything"),),
    ),
    Mutant(
        CHECK,
        "an edit in the finished part of a file is not seen",
        "    resume.check(script, progress)\n",
        "",
        (engine("finished_part_that_was_edited"),),
    ),
    Mutant(
        SENDER,
        "what was sent before a file that has changed is left in the pipeline",
        "            except FilesError:  # of a later file: what was sent before it is executed",
        "            except ZeroDivisionError:",
        (moments("sent_before_a_file"),),
    ),
    Mutant(
        RUNNER,
        "an interrupt leaves the statement running",
        "            self._session.pipe.abort()",
        "            pass",
        (engine("signal_cancels"),),
    ),
    Mutant(
        RUNNER,
        "a ledger that is locked in the middle of a run is an error",
        "        except psycopg.errors.LockNotAvailable:\n            return todo",
        "        except ZeroDivisionError:\n            return todo",
        (moments("locked_in_the_middle"),),
    ),
    Mutant(
        RECOVERY,
        "a connection that is lost each time is made again for ever",
        "_LOSSES = 3",
        "_LOSSES = 10**9",
        (moments("lost_each_time"),),
    ),
    Mutant(
        RECOVERY,
        "what got done in between does not count",
        '        """Take note that something got done."""\n        self.losses, ',
        '        """Take note that something got done."""\n        _, ',
        (moments("lost_now_and_then"),),
    ),
    Mutant(
        WAITING,
        "a lock that is not available ends the run",
        '_LOCKED = {"55P03", "40P01", "40001"}',
        '_LOCKED = {"40P01", "40001"}',
        (engine("queue_the_application"),),
    ),
    Mutant(
        WAITING,
        "a deadlock ends the run",
        '_LOCKED = {"55P03", "40P01", "40001"}',
        '_LOCKED = {"55P03", "40001"}',
        (moments("deadlock"),),
    ),
    Mutant(
        WAITING,
        "a serialization failure ends the run",
        '_LOCKED = {"55P03", "40P01", "40001"}',
        '_LOCKED = {"55P03", "40P01"}',
        (moments("serialization"),),
    ),
    Mutant(
        WAITING,
        "another run's file is waited for no longer than a lock",
        "        if claimed and any(blocker.application.startswith(PREFIX) for blocker in blockers):",
        "        if False:",
        (moments("however_long"),),
    ),
    Mutant(
        WAITING,
        "a lock is waited for without end",
        "        if elapsed + pause > self.limit_s:",
        "        if False:",
        (engine("never_comes"),),
    ),
    Mutant(
        WAITING,
        "runs do not take turns",
        "            free = not guarded or guard.lock()",
        "            free = True",
        (engine("waiting_runner"),),
    ),
    Mutant(
        WAITING,
        "MIGRATIONS_GUARD=off is not heeded",
        "            free = not guarded or guard.lock()",
        "            free = guard.lock()",
        (moments("guard_is_off"),),
    ),
    Mutant(
        WAITING,
        "a pool of one in session mode is waited for",
        "    if not session.server.pooled or opening.comes(_POOL_S):",
        "    if True:",
        (ends("pool_of_one and session"),),
    ),
    Mutant(
        RECOVERY,
        "a limit of a pooler is taken for a crash",
        "    if said is None or pooler.limit(said.sqlstate, said.message):",
        "    if said is None:",
        (ends("limit_of_a_pooler"),),
    ),
    Mutant(
        SESSION,
        "behind a pooler the onlooker keeps its run out",
        "        if not self.server.pooled:\n            self._met",
        "        if self.server:\n            self._met",
        (ends("behind_a_pool_no_new"),),
    ),
    Mutant(
        PIPELINE,
        "why a connection ended is what the next call says",
        "            if self._pg.status != ConnStatus.BAD:\n                raise\n",
        "            raise\n",
        (ends("much_is_being_sent"),),
    ),
    Mutant(
        RECOVERY,
        "behind a pool of one the next connection is lost like the last one",
        "        session.suspect, session.alone = self.suspect, lost.alone",
        "        session.suspect = self.suspect",
        (ends("pool_of_one and transaction"),),
    ),
    Mutant(
        WAITING,
        "a run whose files another has executed still waits for its turn",
        "        if needless():",
        "        if False:",
        (moments("nothing_is_left_to_do"),),
    ),
    Mutant(
        WAITING,
        "a second connection is asked for once",
        "_TRIES = 3",
        "_TRIES = 1",
        (moments("second_connection_that_breaks"),),
    ),
    Mutant(
        WAITING,
        "without a second connection there is no run",
        "            if failures < _TRIES:\n                continue\n",
        "            if True:\n                continue\n",
        (faults("no_free_connection"),),
    ),
    Mutant(
        WAITING,
        "a server without advisory locks is an error",
        "        except (psycopg.errors.UndefinedFunction, psycopg.errors.FeatureNotSupported):",
        "        except ZeroDivisionError:",
        (engine("without_advisory_locks"),),
    ),
    Mutant(
        WAITING,
        "two runs that make the ledger at once fail",
        "        except _CREATED as error:",
        "        except ZeroDivisionError as error:",
        (engine("create_the_ledger_at_the_same"),),
    ),
    Mutant(
        WAITING,
        "something else of the ledger's name is tried for ever",
        "            if now == book:",
        "            if False:",
        (engine("cannot_be_made"),),
    ),
    Mutant(
        WAITING,
        "a locked ledger is an error when it is read",
        "        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):",
        "        except ZeroDivisionError:",
        (faults("waited_for_aloud"),),
    ),
    Mutant(
        WAITING,
        "whom a run waits for is not said",
        "            yield Waiting(holder, now - started)\n",
        "            pass\n",
        (engine("waiting_runner"),),
    ),
    Mutant(
        WATCH,
        "the server may end the turn of a run that does nothing",
        "SET LOCAL idle_in_transaction_session_timeout = 0; ",
        "",
        (moments("ends_the_turn"),),
    ),
    Mutant(
        WATCH,
        "the server may end the turn of a run that takes long",
        '"SET LOCAL transaction_timeout = 0;" if new else ""',
        '""',
        (moments("ends_the_turn"),),
    ),
    Mutant(
        WATCH,
        "the lock of turns is not kept",
        "        if not self._locked:\n            self._conn.rollback()\n        return",
        "        self._conn.rollback()\n        return",
        (engine("waiting_runner"),),
    ),
    Mutant(
        WATCH,
        "each process takes turns with itself only",
        '    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)',
        "    return os.getpid()",
        (engine("waiting_runner"),),
    ),
    Mutant(
        WATCH,
        "who looks on is the connection with the lock",
        "                self._watching = self._target.once(self._name)",
        "                self._watching = self._conn",
        (engine("to_look_on_never"),),
    ),
    Mutant(
        WATCH,
        "who is in the way is not known",
        "        return tuple(\n            Blocker(",
        "        return ()\n        return tuple(\n            Blocker(",
        (engine("names_the_blocker"),),
    ),
    Mutant(
        AHEAD,
        "a second connection that does not come is waited for",
        "        self._wanted = False\n        self.join(1)",
        "        self._wanted = False\n        self.join()",
        (engine("does_not_come"),),
    ),
    Mutant(
        AHEAD,
        "a second connection that comes too late stays open",
        "        if not self._wanted:\n            made.close()",
        "        if False:\n            made.close()",
        (engine("does_not_come"),),
    ),
    Mutant(
        WATCH,
        "what runs on the turn's connection leaves a snapshot",
        "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {ours};",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {ours};",
        (engine("role_owns"),),
    ),
    Mutant(
        TARGETS,
        "a session that has ended counts as alive",
        '    return Command(_ALIVE, "alive", about, params)',
        '    return Command(b"SELECT true", "alive", about)',
        (engine("cut_off_while"),),
    ),
    Mutant(
        TARGETS,
        "a session that is at work counts as ended",
        '    return Command(_ALIVE, "alive", about, params)',
        '    return Command(b"SELECT false", "alive", about)',
        (moments("still_at_work"),),
    ),
    Mutant(
        TARGETS,
        "what a REINDEX that was cut off left behind stays",
        '        yield Command(_LEFT_OF_RELATION.encode(), "index", about, [relation])',
        "        return",
        (moments("reindex_that_was_cut_off"),),
    ),
    Mutant(
        TARGETS,
        "what a REINDEX of partitions left behind stays",
        "FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid::pg_catalog.regclass) AS p",
        "FROM pg_catalog.pg_partition_tree(0::pg_catalog.oid::pg_catalog.regclass) AS p",
        (outside("reindex_of_many"),),
    ),
    Mutant(
        TARGETS,
        "what a REINDEX of a schema left behind stays",
        "    if target.schema is not None:\n",
        "    if False:\n",
        (outside("reindex_of_many"),),
    ),
    Mutant(
        OUTSIDE,
        "a partition that is detached half-way is detached anew",
        "    if facts.finalize:  # whose locks are strong ones",
        "    if False:",
        (outside("cut_off_is_detached"),),
    ),
    Mutant(
        RESUME,
        "a partition that is detached counts as one that is not",
        '        return (intent.target or {}).get("existed") is not None and not facts.attached',
        "        return False",
        (outside("detached_after_all"),),
    ),
    Mutant(
        RECOVERY,
        "what an interrupted statement outside a transaction leaves is called rolled back",
        "    return resume.cancelled(running.script, rows, unit), waited",
        '    return "The running statement was cancelled and rolled back.", waited',
        (outside("interrupt_says"),),
    ),
    Mutant(
        TARGETS,
        "an index is sought by the name as it is written",
        "    (pg_catalog.parse_ident($2))[1]::pg_catalog.name",
        "    $2::pg_catalog.name",
        (units("name_that_the_server_gives"),),
    ),
    Mutant(
        UNITS,
        "the indexes of a file are not looked at before it is recorded",
        "        if not unit.transactional and (yield from outside.unfinish(work, number, unit)):",
        "        if False:",
        (units("turns_out_invalid"),),
    ),
    Mutant(
        UNITS,
        "finished units run again",
        "        if row is not None and row.finished:\n            continue\n",
        "",
        (engine("resumes_at_the_statement"),),
    ),
    Mutant(
        UNITS,
        "the settings of finished units do not hold again",
        "    yield from work.read()\n    yield from work.restore()\n",
        "    yield from work.read()\n",
        (engine("settings_of_a_finished"),),
    ),
    Mutant(
        UNITS,
        "a file whose progress somebody has removed is recorded",
        '    if (there := len(answers["cleared"])) != units:',
        '    if (there := len(answers["cleared"])) < 0:',
        (units("somebody_has_removed"),),
    ),
    Mutant(
        PROGRESS,
        "two runs take over the same statement",
        "$5::pg_catalog.jsonb, pg_catalog.pg_backend_pid())",
        "$5::pg_catalog.jsonb, pg_catalog.pg_backend_pid())\nON CONFLICT DO NOTHING",
        (moments("one_takes_it_over"),),
    ),
    Mutant(
        PROGRESS,
        "the progress of a file that is recorded stays",
        'CLEAR = "DELETE FROM {unfinished} WHERE filename OPERATOR(pg_catalog.=) $1 RETURNING unit"',
        'CLEAR = "SELECT unit FROM {unfinished} WHERE filename OPERATOR(pg_catalog.=) $1"',
        (engine("each_file_once"),),
    ),
    Mutant(
        PROGRESS,
        "a unit that removes its own row counts as finished",
        "SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 1)::integer",
        "SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.>=) 0)::integer",
        (units("changes_the_progress_table"),),
    ),
    Mutant(
        RESUME,
        "a DROP INDEX that was cut off counts as done",
        "        return facts.gone if intent.target is not None else not named",
        "        return True",
        (moments("drop_index"),),
    ),
    Mutant(
        RESUME,
        "a DROP INDEX that was cut off counts as not done",
        "        return facts.gone if intent.target is not None else not named",
        "        return False",
        (moments("drop_index"),),
    ),
    Mutant(
        RESUME,
        "an INVALID index behind IF NOT EXISTS counts as built",
        "        return Step.CLEAN if invalid else Step.RUN",
        "        return Step.RUN",
        (engine("behind_if_not_exists"),),
    ),
    Mutant(
        RESUME,
        "an index that another session builds is taken for a leftover",
        "            return Step.WAIT",
        "            return Step.CLEAN",
        (moments("another_session_builds"),),
    ),
    Mutant(
        RESUME,
        "what nobody can decide is done again",
        "    return Step.ASK",
        "    return Step.RUN",
        (engine("cannot_be_decided"),),
    ),
    Mutant(
        RESUME,
        "an edit of line ends is an edit",
        '.replace(b"\\r\\n", b"\\n")',
        "",
        (moments("line_ends"),),
    ),
    Mutant(
        RESUME,
        "a statement with a strong lock outside a transaction has no lock_timeout",
        '    return not (kind.endswith("CONCURRENTLY") or kind in _WEAK)',
        "    return False",
        (units("strong_lock"),),
    ),
    Mutant(
        RESUME,
        "a block that has committed something counts as rolled back",
        "    if commits or (commits is None and kind in _BLOCKS):",
        "    if commits is None and kind in _BLOCKS:",
        (outside("committed_something"),),
    ),
    Mutant(
        RESUME,
        "a block that commits as it goes is cut off by our lock_timeout",
        "    return strong(kind, sql) and kind not in _BLOCKS + _FUNCTIONS",
        "    return strong(kind, sql)",
        (outside("no_lock_timeout"),),
    ),
    Mutant(
        WAITING,
        "what may stand in part is tried again",
        "        if running.once:\n            return None\n",
        "",
        (outside("not_repeated"),),
    ),
    Mutant(
        OUTSIDE,
        "a run that is still at work on a statement is not waited for",
        "        yield from wait_for(work, number)\n",
        "        yield from work.read()\n",
        (moments("still_at_work"),),
    ),
    Mutant(
        OUTSIDE,
        "a statement that failed stays in doubt",
        "    if row is None or not (yield from work.write(FORGET, number, work.session.name)):",
        "    if row is None:",
        (moments("that_failed_is_not_in_doubt"),),
    ),
    Mutant(
        OUTSIDE,
        "an index build gives up on a lock",
        "    directive, limit_ms = work.running.script.directives.lock_timeout_ms, 0",
        "    directive, limit_ms = 1, 1",
        (units("index_waits"),),
    ),
    Mutant(
        PLACE,
        "what an extension brought along counts as a table",
        "d.deptype OPERATOR(pg_catalog.=) 'e'",
        "d.deptype OPERATOR(pg_catalog.=) 'x'",
        (moments("no_table_of_anybody"),),
    ),
    Mutant(
        TRANSACTION,
        "what is attached between two files is not looked at",
        "    if session.exposed or not book.closed:",
        "    if False:",
        (trust("between_two_files"),),
    ),
    Mutant(
        PLACE,
        "the ledger may change while it is looked at",
        '    False: "LOCK TABLE {table} IN ROW EXCLUSIVE MODE",',
        '    False: "LOCK TABLE {table} IN ACCESS SHARE MODE",',
        (trust("between_two_files or schema_puts_there"),),
    ),
    Mutant(
        TRANSACTION,
        "what a file does to the ledger is not looked at behind it",
        "    if traces.touches:",
        "    if not running:",
        (trust("changes_the_ledger"),),
    ),
    Mutant(
        TRANSACTION,
        "the rows of the ledger are not counted",
        '    yield Command(book.compose(_ALL), "untouched", running, (b"%d" % rows,))',
        "    pass",
        (trust("changes_the_ledger or takes_its_own_row"),),
    ),
    Mutant(
        TRACES,
        "a block of a file is taken for harmless",
        "            self.touches = connects or self._named in begin",
        "            self.touches = self._named in begin",
        (trust("calls_what_changes"),),
    ),
    Mutant(
        LEDGER,
        "a ledger that came while it was made is not looked at",
        "    return chosen(conn, rows, schema, table)._replace(dumped=ledger.dumped)",
        "    return ledger._replace(exists=True, columns=(*THEIRS, *OURS), is_unique=True)",
        (trust("comes_while"),),
    ),
    Mutant(
        PLACE,
        "whoever has rights on the ledger is trusted",
        "       c.relacl IS NULL\n",
        "       true\n",
        (trust("between_two_files"),),
    ),
    Mutant(
        PLACE,
        "whoever owns the ledger's schema is trusted",
        "       AND (n.nspowner OPERATOR(pg_catalog.=) ANY ('{10,6171}'::pg_catalog.oid[])",
        "       AND (true OR n.nspowner OPERATOR(pg_catalog.=) ANY ('{10,6171}'::pg_catalog.oid[])",
        (trust("schema_puts_there"),),
    ),
    Mutant(
        PLACE,
        "a table of another tool is taken for the ledger",
        "    if found and (why := found.why_not(THEIRS, OURS)):",
        "    if found and False and (why := found.why_not(THEIRS, OURS)):",
        (main_job("foreign"),),
    ),
    Mutant(
        PLACE,
        "the ledger's own tables count as others",
        "    parameters = [schemas, ledger.schema, names(ledger.table)]",
        "    parameters = [schemas, ledger.schema, [ledger.table]]",
        (
            main_job("failing_schema"),
            moments("no_table_of_anybody"),
        ),
    ),
    Mutant(
        PLACE,
        "a percent sign in the ledger's name is a placeholder",
        '    if "%s" in text:',
        "    if False:",
        (security("ledger_may_have_any_name"),),
    ),
    Mutant(
        PLACE,
        "a ledger that others own is trusted",
        "    if not trust.trusted:",
        "    if False:",
        (moments("cannot_be_trusted"),),
    ),
    Mutant(
        PLACE,
        "no ledger is asked whether it can be trusted",
        "        if not each.plain or max(each.types.values(), default=0) >= _FIRST_OF_OTHERS:",
        "        if False:",
        (moments("cannot_be_trusted"),),
    ),
    Mutant(
        PLACE,
        "a ledger with triggers is trusted",
        "        if names:\n            drops",
        "        if False:\n            drops",
        (moments("cannot_be_trusted"),),
    ),
    Mutant(
        PLACE,
        "a ledger of which rows may be hidden is trusted",
        "    if trust.secured:",
        "    if False:",
        (moments("cannot_be_trusted"),),
    ),
    Mutant(
        PLACE,
        "of several ledgers one is chosen",
        "    if ledgers[1:]:",
        "    if False:",
        (moments("several_ledgers"),),
    ),
    Mutant(
        LEDGER,
        "a checksum that somebody else has recorded is overwritten",
        ' AND checksum IS NULL"""',
        '"""',
        (moments("recorded_meanwhile"),),
    ),
    Mutant(
        LEDGER,
        "a ledger without a unique key stays so",
        '        unique = "" if ledger.is_unique else ", ADD UNIQUE (filename)"',
        '        unique = ""',
        (engine("cannot_be_made"),),
    ),
    Mutant(
        LEDGER,
        "a first ledger is made though another run has made one elsewhere",
        "    first: list[ours.Query] = [(_NOWHERE, finding(ledger.wanted_schema, ledger.table)[1])]\n",
        "    first: list[ours.Query] = []\n",
        ("scenarios/test_ledger.py -k the_one",),
    ),
    Mutant(
        LEDGER,
        "forgetting a file leaves its finished units",
        "[filename], rows=rows)\n    _forget_units(conn, ledger, filename)",
        "[filename], rows=rows)",
        (everyday("repair_forget"),),
    ),
    Mutant(
        SURVEY,
        "a changed file is executed after",
        "        plan.refuse_changed(found.plan)\n",
        "",
        (main_job("that_changed_is_refused"),),
    ),
    Mutant(
        ROLLBACK,
        "a file is undone below one that became half done meanwhile",
        "            refuse_half_done(executed, progress, self._state())\n",
        "            pass\n",
        (half_done("rollback"),),
    ),
    Mutant(
        PLAN,
        "an executed text runs again where its name has another one",
        "    changed = _changed(migrations, executed)\n    renamed",
        "    changed: dict[str, str | None] = {}\n    renamed",
        (records("moved_on"),),
    ),
    Mutant(
        SURVEY,
        "a base schema that is half done is taken as loaded",
        "SCHEMA in found.progress:  # it goes on",
        "False:",
        (half_done("base_schema"),),
    ),
    Mutant(
        SURVEY,
        "a half-done file begins anew under another name",
        "        renames.refuse_strays(found.plan.strays)\n",
        "        pass\n",
        (half_done("renumbered"),),
    ),
    Mutant(
        SURVEY,
        "a database with tables gets the base schema",
        "    if not empty:\n        raise _unknown",
        "    if False:\n        raise _unknown",
        (main_job("tables_without_a_ledger"),),
    ),
    Mutant(
        SURVEY,
        "a ledger that was set up without the base schema gets it",
        "    if executed or (found.progress and not empty):",
        "    if False:",
        (main_job("node_code_is_adopted"),),
    ),
    Mutant(
        PIPELINE,
        "everything is sent ahead of its results",
        "_WINDOW = 8 << 20",
        "_WINDOW = 8 << 40",
        (moments("sent_ahead"),),
    ),
    Mutant(
        PIPELINE,
        "a failure is that of the first command",
        '        self._failed = self._failed or CommandFailed(command, said, fields.schema_name or "")',
        '        self._failed = self._failed or CommandFailed(self._sent[-1], said, "")',
        (engine("statement_is_known"),),
    ),
    Mutant(
        CONNECTION,
        "a server that is not there is not waited for",
        "        if self._ping() in (pq.Ping.NO_RESPONSE, pq.Ping.REJECT):",
        "        if False:",
        (
            engine("restarted_server"),
            main_job("not_there"),
        ),
    ),
    Mutant(
        CONNECTION,
        "a server that is full is not waited for",
        '_NOT_NOW = ("the database system is", "too many", "remaining connection slots")',
        '_NOT_NOW = ("the database system is",)',
        (faults("no_free_connection"),),
    ),
    Mutant(
        DESCRIBED,
        "a standby is written to",
        "    if standby and writing:",
        "    if False:",
        (main_job("standby_is_refused"),),
    ),
    Mutant(
        POSTMASTER,
        "a killed server whose socket answers is joined",
        "        if not _alive(server.pid, data):\n            return None\n        if status",
        "        if status",
        (embedded("still_answers"),),
    ),
    Mutant(
        DUMP,
        "a dump is not on the disk before it replaces the file",
        "                os.fsync(file.fileno())\n",
        "",
        (moments("dump_is_on_the_disk"),),
    ),
    Mutant(
        OURS,
        "our own statements do not care how many rows they change",
        "        if rows not in (None, changed):",
        "        if False:",
        (moments("another_number_of_rows"),),
    ),
    Mutant(
        OURS,
        "our own questions are asked on the search_path of the file",
        'SETTINGS = b"SET LOCAL search_path = pg_catalog, pg_temp"',
        'SETTINGS = b"SET LOCAL search_path = public, pg_catalog"',
        (ours("finds_only_what_the_server_has"),),
    ),
    Mutant(
        MEASURED,
        "what was locked before a statement is said to be locked by it",
        "        locks=tuple(sorted(now - held, key",
        "        locks=tuple(sorted(now, key",
        (rehearsal("what_would_wait"),),
    ),
    Mutant(
        FINDINGS,
        "a lock is charged with its own statement only",
        "charges[number : _end(charges, number, table, mode)]",
        "charges[number : number + 1]",
        (rehearsal("what_would_wait"),),
    ),
    Mutant(
        FINDINGS,
        "a lock that a ROLLBACK TO gives back is charged until COMMIT",
        "lock.mode == mode for lock in charge.did.released",
        "lock.mode == mode for lock in ()",
        (rehearsal("what_would_wait"),),
    ),
    Mutant(
        GATE,
        "a statement outside a transaction is over before it was looked at",
        "                self._conn.execute(sql.SQL(_LOCK).format(name))",
        "                pass",
        (rehearsal("table_of_the_page"),),
    ),
    Mutant(
        BATCHES,
        "a batch that gives 0 rows is the end, whatever it has written",
        "                if any(map(any, pace.wrote(kept))):",
        "                if False:",
        (batches("only_a_trigger"),),
    ),
    Mutant(
        PACE,
        "rows that a run has removed were never there",
        "        removed = max(0, self._wrote.deleted - self._wrote.inserted)",
        "        removed = 0",
        (batches("removes_rows"),),
    ),
    Mutant(
        CREW,
        "canaries that fail stop nobody",
        "        if began and self._missing > 0:",
        "        if False:",
        (fleet("fails_everywhere"),),
    ),
    Mutant(
        CREW,
        "what executes nothing is a canary",
        "        if began and self._missing > 0:",
        "        if self._missing > 0:",
        (fleet("cannot_be_reached"),),
    ),
    Mutant(
        CREW,
        "all targets are begun at once",
        "                if len(self._begun) < missing:",
        "                if True:",
        (fleet("interrupt_ends_each"),),
    ),
    Mutant(
        CREW,
        "a server gets as many workers as are wanted",
        "                        server.room = capacity.workers(member.target, wanted) if several else 1",
        "                        server.room = wanted",
        (fleet("leave_room"),),
    ),
    Mutant(
        PAUSES,
        "a run in a thread is not told to stop",
        "    if stop is not None and stop.told.is_set():",
        "    if False:",
        (fleet("interrupt_ends_each"),),
    ),
    Mutant(
        FLEET,
        "a schema that lacks a file is taken for done",
        "        and {row.filename: row.checksum for row in seen.executed.values()} == wanted",
        "",
        (fleet("cannot_be_read"),),
    ),
    Mutant(
        TRANSACTION,
        "a file that is alone waits for nobody's turn",
        '    yield Command(_LOCK.format(taking=taking(book.keys)).encode(), "turn", running)',
        "    pass",
        (fleet("waits_for_its_turn"),),
    ),
    Mutant(
        TRANSACTION,
        "a file that is alone does not see what others have changed",
        '    yield Command(book.compose(_STILL), "turn", running, (stands,))',
        "    stands = stands",
        (fleet("others_have_changed"),),
    ),
    Mutant(
        PG_DUMP,
        "pg_dump goes through a pooler, and leaves an empty search_path there",
        "    if pooler.is_between(conn):  # pg_dump",
        "    if False:  # pg_dump",
        (everyday("needs_pg_dump"),),
    ),
    Mutant(
        PG_DUMP,
        "a login that inherits nothing reads the tables of its role as itself",
        "    return bool(role and ours.ask(conn, _NOT_INHERITED, [role]))",
        "    return False",
        (dump("login_inherits"),),
    ),
    Mutant(
        PG_DUMP,
        "a login that may read more than its role reads as the role",
        "    return bool(role and ours.ask(conn, _NOT_INHERITED, [role]))",
        "    return bool(role)",
        (dump("login_inherits"),),
    ),
    Mutant(
        ROWS,
        "rows are read by a query, whose planner calls functions of the table's owner",
        'sql.SQL("COPY {}{} TO STDOUT")',
        'sql.SQL("COPY (TABLE {}) TO STDOUT --{}")',
        (ours("rows_of_another_role"),),
    ),
    Mutant(
        ROWS,
        "a policy is asked for the rows of a dump",
        "\nSET LOCAL row_security = off",
        "",
        (ours("a_policy_guards"),),
    ),
    Mutant(
        SIZES,
        "a question for the number of rows calls functions of the table's owner",
        "           AND NOT {_CALLS_OTHERS}\n",
        "",
        (ours("how_many_rows"),),
    ),
    Mutant(
        EFFECTS,
        "a dump says nothing of what a DO block did",
        "        yield from _block(sql)",
        "        yield from ()",
        (dump("is_in_no_schema"),),
    ),
    Mutant(
        EFFECTS,
        "a dump says nothing of a statement that a DO block composed",
        "    yield from found or ({MAY} if composed else ())",
        "    yield from ()",
        (dump("is_in_no_schema"),),
    ),
    Mutant(
        SETTINGS,
        "a line of .env that cannot be understood is skipped",
        '        if line.error or odd or _takes_in(key, line.value or ""):',
        "        if False:",
        ("scenarios/test_settings.py -k says_nothing",),
    ),
    Mutant(
        SETTINGS,
        "a value that may hold a password is quoted",
        '        shown = "." if name in _URLS else f": {value}"',
        '        shown = f": {value}"',
        ("scenarios/test_settings.py -k shows_a_password",),
    ),
    Mutant(
        URLS,
        "a URL in the place of a host or a database is shown",
        "    return bool(_TELLING.search(text))",
        "    return False",
        ("scenarios/test_settings.py -k shows_a_password",),
    ),
    Mutant(
        DUMP_CHECK,
        "a dump is checked without the base schema that the files build on",
        "    return base.path if base and not folder.is_dump(base.path) else None",
        "    return None",
        ("scenarios/test_drift.py -k somebody_wrote_is_kept",),
    ),
)
