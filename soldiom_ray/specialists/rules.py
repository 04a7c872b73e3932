"""The rules that a domain's pack names: the only table of them."""

from collections.abc import Callable
from typing import Any

from soldiom_ray.specialists.citations import check_citations
from soldiom_ray.specialists.code_checks import find_defects
from soldiom_ray.specialists.evidence import extract_evidence
from soldiom_ray.specialists.financial_risk import assess_risk
from soldiom_ray.specialists.market import walk_forward
from soldiom_ray.specialists.mutants import make_mutants, run_tests
from soldiom_ray.specialists.quotes import quote_study
from soldiom_ray.specialists.repair import repair_code
from soldiom_ray.specialists.reports import check_report, write_report
from soldiom_ray.specialists.table_questions import ask_table
from soldiom_ray.specialists.tables import answer_from_program, run_program
from soldiom_ray.specialists.timeline import reconstruct_timeline

RULES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "extract_evidence": extract_evidence,
    "reconstruct_timeline": reconstruct_timeline,
    "write_report": write_report,
    "check_report": check_report,
    "check_citations": check_citations,
    "run_program": run_program,
    "walk_forward": walk_forward,
    "find_defects": find_defects,
    "make_mutants": make_mutants,
    "run_tests": run_tests,
    "repair_code": repair_code,
    "answer_from_program": answer_from_program,
    "quote_study": quote_study,
    "ask_table": ask_table,
    "assess_risk": assess_risk,
}
