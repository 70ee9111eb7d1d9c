"""OpenFlow 1.0 with Nicira extensions as bytes: the app's only encoder and decoder, for both hosts.

A flow has one form everywhere (planned, installed, dumped), chosen so that equal flows are equal bytes:

    FlowKey    table (1 byte), priority (2), NXM match in Open vSwitch's own order     nxm.py
    FlowValue  cookie (8 bytes), idle timeout in s (2), flags (2), actions             actions.py

Modules: fields (NXM headers), nxm (matches, keys), actions (actions, values), values (decoded messages), encode and
decode (messages: both of them, for users), stream (framing), text (as ovs-ofctl prints), connection (a switch session).
"""
