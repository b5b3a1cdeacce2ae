//! What the port does about congestion: ConfigureCongestion and QueryCongestion.
//!
//! The settings are the function's and hold for all its queue pairs, from the next packet on.

use core::time::Duration;

use vrnic_abi::admin::{ConfigureCongestion, CongestionFlags, OutputBuffer};
use vrnic_abi::object::CongestionAttributes;

use super::Context;
use super::command::{Refusal, Reply, argument, bad};
use super::query::write_at;
use crate::frontend::env::{Incoming, NoPort};
use crate::frontend::function::Function;
use crate::host::Host;
use crate::transport::{Bounds, Congestion, Rate};

impl Function {
    pub(super) fn configure_congestion<H: Host>(
        &mut self,
        cx: &mut Context<'_, H>,
        body: &ConfigureCongestion,
    ) -> Result<Reply, Refusal> {
        self.objects.congestion = settings(body, cx.speed)?;
        let limited = self.qps.iter().filter(|(_, qp)| qp.transport.is_limited());
        let limited: alloc::vec::Vec<u32> = limited.map(|(qpn, _)| qpn).collect();
        for qpn in limited {
            let incoming = Incoming::none();
            self.call(cx.host, cx.now, qpn, &mut NoPort, incoming, |qp, env| {
                qp.congestion_changed(env);
            });
            self.after_call(cx.host, cx.now, qpn);
        }
        Ok(Reply::default())
    }

    pub(super) fn query_congestion<H: Host>(
        &self,
        host: &H,
        output: &OutputBuffer,
    ) -> Result<Reply, Refusal> {
        let settings = &self.objects.congestion;
        let mut flags = CongestionFlags::empty();
        flags.set(CongestionFlags::CAPABLE, settings.capable);
        flags.set(CongestionFlags::NOTIFY, settings.notify);
        flags.set(CongestionFlags::REACT, settings.react);
        let attributes = CongestionAttributes {
            flags: flags.bits(),
            notification_interval: u16::try_from(settings.interval.as_micros()).unwrap_or(u16::MAX),
            notification_dscp: settings.dscp,
            minimum_rate: settings.bounds.minimum.to_megabits(),
            ..CongestionAttributes::default()
        };
        write_at(host, output, 0, &attributes)
    }
}

/// What a command says, on a port with that speed in Mbit/s.
fn settings(body: &ConfigureCongestion, speed: u32) -> Result<Congestion, Refusal> {
    let flags = CongestionFlags::from_bits(body.flags);
    let flags = flags.ok_or(bad(argument!(ConfigureCongestion, flags)))?;
    if body.notification_dscp > 63 {
        return Err(bad(argument!(ConfigureCongestion, notification_dscp)));
    }
    let line = speed.max(1);
    if body.minimum_rate > line {
        return Err(bad(argument!(ConfigureCongestion, minimum_rate)));
    }
    let minimum = match body.minimum_rate {
        0 => Congestion::DEFAULT_MINIMUM.min(line),
        rate => rate,
    };
    Ok(Congestion {
        capable: flags.contains(CongestionFlags::CAPABLE),
        notify: flags.contains(CongestionFlags::NOTIFY),
        react: flags.contains(CongestionFlags::REACT),
        dscp: body.notification_dscp,
        interval: match body.notification_interval {
            0 => Congestion::DEFAULT_INTERVAL,
            micros => Duration::from_micros(micros.into()),
        },
        bounds: Bounds {
            line: Rate::megabits(line),
            minimum: Rate::megabits(minimum),
        },
    })
}
