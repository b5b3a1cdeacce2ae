//! Whose turn it is among the clients, and for how long.
//!
//! A turn is a portion of work: it ends when nobody has anything to do, or when its time is up, so that
//! guests on the same thread wait no longer than that, and than one client's step takes. The next one
//! begins where it ended: whatever a client asks for, the others get as many steps as it does.

/// Whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Rota<const CLIENTS: usize> {
    next: usize,
}

impl<const CLIENTS: usize> Rota<CLIENTS> {
    /// Has `step` done for one client after the other, until it says of all of them that there was
    /// nothing to do, or `is_over` that the time is up. Returns whether there may be more to do.
    pub(crate) fn turn(
        &mut self,
        mut is_over: impl FnMut() -> bool,
        mut step: impl FnMut(usize) -> bool,
    ) -> bool {
        let mut idle = 0;
        while idle < CLIENTS {
            let client = self.next;
            self.next = (client + 1) % CLIENTS;
            idle = if step(client) { 0 } else { idle + 1 };
            if idle < CLIENTS && is_over() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_when_nobody_has_anything_to_do() {
        let mut rota = Rota::<4>::default();
        let mut work = [0, 3, 0, 1];
        let mut steps = 0;
        let more = rota.turn(
            || false,
            |client| {
                steps += 1;
                let busy = work[client] > 0;
                work[client] -= i32::from(busy);
                busy
            },
        );
        assert_eq!((more, work), (false, [0; 4]));
        // The last one is the second client's third, and all others are looked at after that.
        assert_eq!(steps, 2 + 2 * 4 + 4);
    }

    #[test]
    fn greedy_clients_get_as_much_as_others_however_short_a_turn_is() {
        for length in 1..9 {
            let mut rota = Rota::<5>::default();
            let mut steps = [0; 5];
            for _ in 0..100 {
                let mut left = length;
                let more = rota.turn(
                    || {
                        left -= 1;
                        left == 0
                    },
                    |client| {
                        steps[client] += 1;
                        client != 2
                    },
                );
                assert!(more);
            }
            let (least, most) = (steps.iter().min(), steps.iter().max());
            assert!(most.unwrap() - least.unwrap() <= 1, "{length}: {steps:?}");
            assert_eq!(steps.iter().sum::<usize>(), 100 * length);
        }
    }
}
