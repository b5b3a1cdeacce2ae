//! rdma-core's own tests, as the distribution packages them, on a vrnic in a stock guest.
//!
//! They are written in Python against pyverbs, and have both ends of each connection in one guest.
//! Those run that are about every device; those of a single vendor's are left out. `own_tests.py`
//! runs them, as the package's own script does, but tells the results so that a program can read
//! them.
//!
//! What they leave out, the moderation of completion queues, is asked for by a program of our own,
//! `moderation.c`, which the guest compiles with the distribution's headers.
//!
//! A test passes, or is skipped by itself for a reason that is listed here with ours, or is excluded
//! here by its name. Everything else is a failure, and so is an exclusion without a test.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Prepared;
use super::cluster::{Node, Plan};
use super::stock::on;
use super::stock_tools::gid_index;
use crate::debian::base::RDMA_TESTS;

const RUNNER: &str = include_str!("own_tests.py");
const MODERATION: &str = include_str!("moderation.c");

/// What is run. Not here are tests of mlx5 and EFA devices, and of what this one does not say that it
/// has, so that all of them would skip: on-demand paging, tag matching, memory of CUDA.
const MODULES: [&str; 18] = [
    "test_addr",
    "test_atomic",
    "test_cq",
    "test_cq_events",
    "test_cqex",
    "test_device",
    "test_flow",
    "test_fork",
    "test_mr",
    "test_parent_domain",
    "test_pd",
    "test_qp",
    "test_qpex",
    "test_rdmacm",
    "test_relaxed_ordering",
    "test_rss_traffic",
    "test_shared_pd",
    "test_srq",
];

/// Tests that are not run, and why.
const EXCLUDED: [(&str, &str); 1] = [(
    "test_rss_traffic.RSSTrafficTest.test_rss_traffic",
    "takes it for granted that there are work queues of their own (ibv_create_wq), as no other test \
     does: that they are not supported is an error to it, also on Soft-RoCE",
)];

/// Reasons for which tests skip themselves, and why that is right.
const SKIPPED: [(&str, &str); 7] = [
    (
        "Device memory is not supported",
        "there is no memory on the device",
    ),
    ("/dev/dri/renderD128 is not present", "the guest has no GPU"),
    (
        "Flow creation is not supported",
        "filters look at the destination address and the VLAN alone",
    ),
    (
        "Parent Domain is not supported",
        "rings are in memory of the provider's, not of a parent domain's allocator",
    ),
    ("no huge pages of size 2M", "for such an allocator, too"),
    (
        "Importing a device is not supported",
        "contexts are not shared",
    ),
    (
        "SRQ resize is not supported",
        "the size of a shared queue is fixed",
    ),
];

/// Fewest tests that have to pass.
const FLOOR: usize = 119;

/// Some that have to be among them, of each thing that no other test of a stock guest covers.
const COVERED: [&str; 14] = [
    "test_mr.MWTest.test_mw_type1",
    "test_mr.MWTest.test_invalidate_mw_type1",
    "test_mr.MWTest.test_mw_type2_invalidate_local",
    "test_mr.MWTest.test_mw_type2_invalidate_remote",
    "test_mr.MRTest.test_mr_rereg_access",
    "test_mr.MRTest.test_mr_rereg_addr",
    "test_mr.MRTest.test_mr_rereg_atomic",
    "test_mr.MRTest.test_mr_rereg_pd",
    "test_srq.SrqTestCase.test_modify_srq_limit",
    "test_cq.CQTest.test_resize_cq",
    "test_cqex.CqExTestCase.test_xrc_traffic_cq_ex",
    "test_qpex.QpExTestCase.test_qp_ex_rc_bind_mw",
    "test_qpex.QpExTestCase.test_qp_ex_rc_flush",
    "test_rdmacm.CMTestCase.test_rdmacm_async_ex_multicast_traffic",
];

/// What became of one test.
#[derive(Debug, PartialEq, Eq)]
struct Outcome<'a> {
    status: &'a str,
    /// Its name, from its module on.
    test: &'a str,
    /// Why it was skipped.
    reason: &'a str,
}

/// The outcomes in what the runner says.
fn outcomes(text: &str) -> Vec<Outcome<'_>> {
    let outcome = |line| -> Option<Outcome<'_>> {
        let mut words = str::strip_prefix(line, "RESULT ")?.splitn(4, ' ');
        let (status, _spent) = (words.next()?, words.next()?);
        Some(Outcome {
            status,
            test: words.next()?.strip_prefix("tests.")?,
            reason: words.next().unwrap_or_default(),
        })
    };
    text.lines().filter_map(outcome).collect()
}

/// How a test failed, in what the runner says.
fn failure<'a>(text: &'a str, test: &str) -> &'a str {
    let begin = text.find(&format!("FAILURE tests.{test}\n"));
    let rest = begin.and_then(|at| text.get(at..)).unwrap_or_default();
    rest.find("\nRESULT").map_or(rest, |end| &rest[..end])
}

/// Whether all is as it should be; returns how many tests passed, and how many were skipped for
/// which of our reasons.
fn judge(text: &str) -> Result<(usize, BTreeMap<&'static str, usize>)> {
    let mut passed = Vec::new();
    let mut skipped = BTreeMap::new();
    for Outcome {
        status,
        test,
        reason,
    } in outcomes(text)
    {
        match status {
            "passed" => passed.push(test),
            "skipped" => {
                let known = SKIPPED.iter().find(|(theirs, _)| reason.contains(theirs));
                let (_, ours) = known.with_context(|| format!("{test} is skipped: {reason}"))?;
                *skipped.entry(*ours).or_default() += 1;
            }
            _ => bail!("{test} {status}:\n{}", failure(text, test)),
        }
    }
    for test in COVERED {
        ensure!(passed.contains(&test), "{test} did not pass");
    }
    let count = passed.len();
    ensure!(count >= FLOOR, "{count} tests passed, {FLOOR} should");
    Ok((count, skipped))
}

/// The tests, in a folder where Python finds them, and what runs them.
fn unpack(node: &Node) -> Result<()> {
    node.run(&format!(
        "mkdir /tmp/rdma-core && cp -r {RDMA_TESTS} /tmp/rdma-core && \
         gunzip /tmp/rdma-core/tests/*.gz && cat > /tmp/own_tests.py <<'END'\n{RUNNER}END"
    ))?;
    Ok(())
}

/// Events come by the count or the period that an application sets.
fn moderation(node: &Node) -> Result<()> {
    let gid = gid_index(node)?;
    let said = node.run(&format!(
        "cd /tmp && cat > moderation.c <<'END' && gcc -Wall -Werror -O2 -o moderation moderation.c \
         -libverbs && timeout 60 ./moderation {gid}\n{MODERATION}END"
    ))?;
    ensure!(said.text.contains("moderated"), "{}", said.text);
    said.text
        .lines()
        .for_each(|line| println!("  moderation: {line}"));
    Ok(())
}

/// Runs them in one guest, which has both ends.
pub(crate) fn test(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "rdma-core-tests",
        vms: 1,
        bound: Duration::from_secs(600),
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let node = cluster.nodes().first().context("there is a guest")?;
        unpack(node)?;
        let said = node.run(&format!(
            "cd /tmp && timeout 500 python3 own_tests.py /tmp/rdma-core {} -- {} 2>&1",
            MODULES.join(" "),
            EXCLUDED.map(|(test, _)| test).join(" ")
        ))?;
        let (passed, skipped) = judge(&said.text)?;
        println!("  {passed} tests passed");
        for (reason, count) in skipped {
            println!("  {count} skipped: {reason}");
        }
        for (test, reason) in EXCLUDED {
            println!("  {test} is not run: it {reason}");
        }
        moderation(node)?;
        let left = node.run("rdma resource")?.text;
        ensure!(left.contains("mr 0 ctx 0 srq 0"), "left behind: {left}");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the runner says when all is well.
    fn well() -> String {
        let passed = |test: &str| format!("RESULT passed 12 tests.{test} \n");
        let named: String = COVERED.map(passed).concat();
        let others = (COVERED.len()..FLOOR).map(|n| passed(&format!("test_qp.Qp.test_{n}")));
        let skip = "RESULT skipped 3 tests.test_mr.Dm.test_a Device memory is not supported\n";
        named + &others.collect::<String>() + "noise\n" + skip
    }

    #[test]
    fn results_are_counted_by_our_reasons() {
        let text = well();
        let (passed, skipped) = judge(&text).unwrap();
        assert_eq!(passed, FLOOR);
        let reasons: Vec<_> = skipped.into_iter().collect();
        assert_eq!(reasons, [("there is no memory on the device", 1)]);
    }

    #[test]
    fn whatever_is_not_as_it_should_be_is_a_failure() {
        let cases = [
            (
                "FAILURE tests.test_qp.Qp.test_a\nTraceback: 7 != 8\nRESULT failed 1 tests.test_qp.Qp.test_a \n",
                "7 != 8",
            ),
            (
                "RESULT skipped 1 tests.test_qp.Qp.test_a No IB devices found\n",
                "No IB devices found",
            ),
        ];
        for (more, expected) in cases {
            let error = judge(&(well() + more)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let few = well().replacen("RESULT passed", "SAID", 1);
        assert!(judge(&few).unwrap_err().to_string().contains(COVERED[0]));
        let few = well().replace("RESULT passed 12 tests.test_qp.Qp.test_20 ", "SAID");
        assert!(judge(&few).unwrap_err().to_string().contains("should"));
    }
}
