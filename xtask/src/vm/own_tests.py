"""Runs rdma-core's own tests and says of each in a line what became of it.

usage: own_tests.py FOLDER MODULE... -- EXCLUDED...

FOLDER holds the package `tests`. A test of a MODULE that is not EXCLUDED ends with a line `RESULT
STATUS MILLISECONDS TEST REASON`; before that of one that failed is how, behind a line `FAILURE TEST`.
"""

import sys
import time
import traceback
import unittest


class Result(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()

    def say(self, status, test, reason=''):
        spent = int((time.monotonic() - self.began) * 1000)
        print('RESULT', status, spent, test.id(), ' '.join(reason.split()), flush=True)

    def fail(self, test, error):
        print('FAILURE', test.id())
        traceback.print_exception(*error, file=sys.stdout)
        self.say('failed', test)

    def addSuccess(self, test):
        self.say('passed', test)

    def addSkip(self, test, reason):
        self.say('skipped', test, reason)

    addError = addFailure = fail


def each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


folder, *words = sys.argv[1:]
modules = words[:words.index('--')]
excluded = {'tests.' + test for test in words[len(modules) + 1:]}
# The tests have a parser of arguments of their own, which wants to have parsed some.
sys.argv[1:] = []
sys.path[:0] = [folder + '/tests', folder]
from args_parser import parser
parser.parse_args()
names = ['tests.' + module for module in modules]
tests = list(each(unittest.defaultTestLoader.loadTestsFromNames(names)))
missing = excluded - {test.id() for test in tests}
if missing:
    sys.exit(f'there are no tests {missing} to exclude')
unittest.TestSuite(test for test in tests if test.id() not in excluded).run(Result())
