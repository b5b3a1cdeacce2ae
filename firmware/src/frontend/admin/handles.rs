//! Address handles (IBTA volume 1, 10.2.2.2).
//!
//! A handle is checked and resolved when it is created, and holds the entry of the GID table that
//! it sends from: what leaves along it needs no more looking up.

use vrnic_abi::admin::{CreateAh, ObjectOutput, ObjectReference, Status};
use vrnic_abi::object::AhAttributes;

use super::command::{Refusal, Reply, argument, bad, no_such};
use super::query::write;
use crate::frontend::address::{BadVector, resolve};
use crate::frontend::function::Function;
use crate::frontend::objects::AddressHandle;
use crate::frontend::work::vector;
use crate::host::Host;

impl Function {
    pub(super) fn create_ah(&mut self, body: &CreateAh) -> Result<Reply, Refusal> {
        if self.objects.pds.get(body.pd).is_none() {
            return Err(no_such(argument!(CreateAh, pd)));
        }
        let path = resolve(&self.objects.gids, &vector(&body.vector), true);
        let path = path.map_err(|wrong| match wrong {
            BadVector::SourceIndex => no_such(argument!(CreateAh, vector.sgid_index)),
            BadVector::Gid => bad(argument!(CreateAh, vector.gid)),
            BadVector::Mac => bad(argument!(CreateAh, vector.mac)),
            BadVector::FlowLabel => bad(argument!(CreateAh, vector.flow_label)),
            BadVector::ServiceLevel => bad(argument!(CreateAh, vector.service_level)),
        })?;
        let made = self.objects.handles.insert_with(|_| AddressHandle {
            pd: body.pd,
            vector: body.vector,
            path,
        });
        let number = made.ok_or(Refusal::new(Status::NoResources, 0))?;
        self.objects.gids.hold(path.source_index);
        self.use_pd(body.pd, true);
        Ok(Reply::number(number))
    }

    pub(super) fn destroy_ah(&mut self, number: u32) -> Result<Reply, Refusal> {
        let handle = self.objects.handles.remove(number);
        let handle = handle.ok_or(no_such(argument!(ObjectReference, object)))?;
        self.objects.gids.release(handle.path.source_index);
        self.use_pd(handle.pd, false);
        Ok(Reply::default())
    }

    pub(super) fn query_ah<H: Host>(
        &self,
        host: &H,
        body: &ObjectOutput,
    ) -> Result<Reply, Refusal> {
        let handle = self.objects.handles.get(body.object);
        let handle = handle.ok_or(no_such(argument!(ObjectOutput, object)))?;
        let attributes = AhAttributes {
            pd: handle.pd,
            vector: handle.vector,
            ..AhAttributes::default()
        };
        write(host, body, &attributes)
    }
}
