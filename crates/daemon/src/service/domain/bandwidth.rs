//! Limits of what passes network cards (`domiftune`): KiB a second and KiB, from the guest's view; 0 is none.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::{TypedParam, TypedValue};
use libvirt_xml::domain::interface::{Bandwidth, BandwidthLimit, InterfaceType};

use super::limits::{each_once, unsupported, wrong_type};
use super::{AFFECT_CONFIG, AFFECT_LIVE, affected, domain_error, form, only};
use crate::domain::{Domain, DomainError, Form, device};
use crate::service::{Daemon, asked, count};

/// VIR_TYPED_PARAM_STRING_OKAY.
const STRINGS: u32 = 4;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(parameters).on(set_parameters)
}

type Direction = fn(&mut Bandwidth) -> &mut Option<BandwidthLimit>;
type Field = fn(&mut BandwidthLimit) -> &mut Option<u64>;

const INBOUND: Direction = |bandwidth| &mut bandwidth.inbound;
const OUTBOUND: Direction = |bandwidth| &mut bandwidth.outbound;

/// The parameters, in libvirt's order.
const PARAMETERS: [(&str, Direction, Field); 7] = [
    ("inbound.average", INBOUND, |limit| &mut limit.average),
    ("inbound.peak", INBOUND, |limit| &mut limit.peak),
    ("inbound.burst", INBOUND, |limit| &mut limit.burst),
    ("inbound.floor", INBOUND, |limit| &mut limit.floor),
    ("outbound.average", OUTBOUND, |limit| &mut limit.average),
    ("outbound.peak", OUTBOUND, |limit| &mut limit.peak),
    ("outbound.burst", OUTBOUND, |limit| &mut limit.burst),
];

fn shown(mut bandwidth: Bandwidth) -> Vec<TypedParam> {
    let params = PARAMETERS.into_iter().map(|(name, direction, field)| {
        let value = direction(&mut bandwidth).as_mut().and_then(|limit| *field(limit)).unwrap_or(0);
        TypedParam::new(name, TypedValue::UInt(u32::try_from(value).unwrap_or(u32::MAX)))
    });
    params.collect()
}

/// Checks parameters; what they do to a card. A direction of which something is said is what is said, all of it.
fn changed(params: Vec<TypedParam>) -> Result<impl Fn(Option<Bandwidth>) -> Bandwidth, RpcError> {
    each_once(&params)?;
    let (mut wanted, mut said) = (Bandwidth::default(), (false, false));
    for TypedParam { field: name, value } in params {
        let known = PARAMETERS.iter().find(|(known, ..)| *known == name);
        let (_, direction, field) = known.ok_or_else(|| unsupported(&name))?;
        let TypedValue::UInt(value) = value else { return Err(wrong_type(&name, "uint")) };
        *field(direction(&mut wanted).get_or_insert_default()) =
            Some(u64::from(value)).filter(|value| *value > 0);
        if name.starts_with("inbound") { said.0 = true } else { said.1 = true }
    }
    // Without an average there is no limit, and nothing that could be said of it.
    for direction in [INBOUND, OUTBOUND] {
        let limit = direction(&mut wanted);
        *limit = limit.take().filter(|limit| *limit != BandwidthLimit::default());
    }
    Ok(move |before: Option<Bandwidth>| {
        let Bandwidth { inbound, outbound } = before.unwrap_or_default();
        Bandwidth {
            inbound: if said.0 { wanted.inbound.clone() } else { inbound },
            outbound: if said.1 { wanted.outbound.clone() } else { outbound },
        }
    })
}

/// The address of the card that a client names, by which all documents know it.
fn address(domain: &Domain, name: &str) -> Result<String, RpcError> {
    let present = domain.definition(Form::Present).map_err(|error| domain_error(&error))?;
    let card = device::card_named(&present, name).and_then(|at| present.devices.interfaces.get(at));
    // One that comes with the next start is in the definition only.
    Ok(card.and_then(|card| card.mac.as_ref()).map_or(name.to_owned(), |mac| mac.address.to_string()))
}

fn unknown(name: &str) -> DomainError {
    DomainError::Argument(format!("'{name}' is not a known interface"))
}

async fn parameters(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetInterfaceParameters,
) -> Result<DomainGetInterfaceParametersReply, RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG | STRINGS)?;
    let most = asked(call.nparams)?;
    let domain = daemon.domain(&call.dom)?;
    let definition = domain.definition(form(&domain, call.flags)?).map_err(|error| domain_error(&error))?;
    if most == 0 {
        return Ok(DomainGetInterfaceParametersReply {
            params: Vec::new(),
            nparams: count(PARAMETERS.len()),
        });
    }
    let card = device::card_named(&definition, &address(&domain, &call.device)?);
    let card = card.and_then(|at| definition.devices.interfaces.get(at));
    let card = card.ok_or_else(|| domain_error(&unknown(&call.device)))?;
    let params = shown(card.bandwidth.clone().unwrap_or_default());
    let nparams = count(params.len());
    Ok(DomainGetInterfaceParametersReply { params: params.into_iter().take(most).collect(), nparams })
}

async fn set_parameters(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSetInterfaceParameters,
) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let changed = changed(call.params)?;
    let domain = daemon.domain(&call.dom)?;
    let affected = affected(&domain, call.flags)?;
    let address = address(&domain, &call.device)?;
    let set = daemon.machines.change_card(&domain, affected, |definition, form| {
        let at = device::card_named(definition, &address).ok_or_else(|| unknown(&call.device))?;
        if let Some(card) = definition.devices.interfaces.get_mut(at) {
            let after = changed(card.bandwidth.take());
            // Of a running machine on a network, nothing said is not that there is nothing: a port group would count again.
            let kept = form == Form::Live && card.kind == InterfaceType::Network;
            card.bandwidth = Some(after).filter(|after| kept || *after != Bandwidth::default());
        }
        Ok(at)
    });
    set.await.map_err(|error| domain_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uint(name: &str, value: u32) -> TypedParam {
        TypedParam::new(name, TypedValue::UInt(value))
    }

    #[test]
    fn a_direction_is_what_is_said_of_it_and_the_other_stays() {
        let set = |params: Vec<TypedParam>, before: Option<Bandwidth>| {
            let change = changed(params).unwrap();
            change(before)
        };
        let first = set(vec![uint("inbound.average", 100), uint("inbound.peak", 200)], None);
        let both = set(vec![uint("outbound.average", 7)], Some(first.clone()));
        let values = |bandwidth: &Bandwidth| {
            let params = shown(bandwidth.clone()).into_iter();
            let value = |param: TypedParam| match param.value {
                TypedValue::UInt(value) => value,
                other => panic!("{other:?}"),
            };
            params.map(value).collect::<Vec<_>>()
        };
        assert_eq!(values(&both), [100, 200, 0, 0, 7, 0, 0]);
        // Not added to what was there.
        let again = set(vec![uint("inbound.average", 50), uint("inbound.burst", 9)], Some(both.clone()));
        assert_eq!(values(&again), [50, 0, 9, 0, 7, 0, 0]);
        let none = set(vec![uint("inbound.average", 0), uint("outbound.average", 0)], Some(both.clone()));
        assert_eq!(none, Bandwidth::default());
        // Clients give everything back that they were shown.
        assert_eq!(set(shown(both.clone()), None), both);
        assert_eq!(set(Vec::new(), Some(both.clone())), both);
    }

    #[test]
    fn parameters_that_make_no_sense_are_refused() {
        let refused = |params: Vec<TypedParam>| changed(params).err().unwrap().to_string();
        assert!(refused(vec![uint("outbound.floor", 1)]).contains("'outbound.floor' not supported"));
        assert!(refused(vec![uint("inbound.average", 1), uint("inbound.average", 1)]).contains("multiple"));
        let wide = TypedParam::new("inbound.average", TypedValue::ULLong(1));
        assert!(refused(vec![wide]).contains("expected 'uint'"));
    }
}
